//! Routes, and what the balancer is told beside them.

use skein_common::{config::ConfigRef, service::*};

use super::{findings, stack};

#[test]
fn routes_are_read_with_their_certificates_and_ports() {
    let text = "name: shop\nservices:\n  web:\n    image: x\n    ports: ['8080', '9000:9000']\n    x-skein:\n      \
        balance: { mode: http, upstream: h2c, proxy_from: [10.0.0.0/8, 192.0.2.7] }\n      routes:\n        \
        - { host: Shop.Example, port: 8080 }\n        - { path: /api, port: 7000, listen: 8443, \
        tls: { certificate: cert, key: key, redirect: 8081 } }\n        \
        - { host: '*.example', port: 8080, tls: cert }\nconfigs:\n  cert: { external: true, name: the-cert }\n  \
        key: { external: true }\n";
    let spec = stack(text).services.remove(0).spec;
    let published = |port: &PortSpec| (port.container_port, port.publish);
    assert_eq!(
        spec.ports.iter().map(published).collect::<Vec<_>>(),
        [
            (7000, Publish::Ingress { port: None }),
            (8080, Publish::Ingress { port: None }),
            (9000, Publish::Ingress { port: Some(9000) })
        ]
    );
    let tls = |key: Option<&str>, redirect_from| {
        Some(RouteTls {
            certificate: ConfigRef::named("the-cert"),
            key: key.map(ConfigRef::named),
            redirect_from,
        })
    };
    let route = |host: &str, path: &str, port, listen, tls| Route {
        host: host.to_owned(),
        path: path.to_owned(),
        port,
        listen,
        tls,
    };
    assert_eq!(
        spec.routes,
        [
            route("shop.example", "/", 8080, 80, None),
            route("", "/api", 7000, 8443, tls(Some("key"), Some(8081))),
            route("*.example", "/", 8080, 443, tls(None, Some(80))),
        ]
    );
    assert_eq!(spec.balance.upstream, Upstream::H2c);
    let trusted: Vec<String> = spec.balance.proxy_from.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["10.0.0.0/8", "192.0.2.7/32"]);
}

#[test]
fn what_is_wrong_with_a_route_is_said_at_its_place() {
    for (routes, expected) in [
        (
            "[{ host: a }]",
            "5:25: services.web.x-skein.routes[0]: port is required: the port in the container",
        ),
        (
            "[{ port: 80, tls: nope }]",
            "5:42: services.web.x-skein.routes[0].tls: the config nope is not declared; declare it under the \
             top-level configs",
        ),
        (
            "[{ port: 80, hots: a }]",
            "5:37: services.web.x-skein.routes[0].hots: unknown key; did you mean host?",
        ),
        (
            "[{ port: 80 }, { port: 81 }]",
            "5:39: services.web.x-skein.routes[1]: every host/ on port 80 is routed twice",
        ),
    ] {
        let text = format!("services:\n  web:\n    image: x\n    x-skein:\n      routes: {routes}\n");
        let found = findings(&text);
        assert!(found.contains(expected.split_once(": ").unwrap().1), "{found}\n{expected}");
    }
}
