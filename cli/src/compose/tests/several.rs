//! Several files, and what is shown of them.

use super::*;

fn read_both(first: &str, second: &str) -> Result<Stack, Vec<Diagnostic>> {
    let file = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    read(&Input {
        files: &[file("a.yaml", first), file("b.yaml", second)],
        folder: Path::new("/srv/shop"),
        stack: None,
        environment: &environment(),
        read_file: &read_file,
    })
}

#[test]
fn several_files_are_one() {
    let first = web("environment: [A=1, B=$TAG]\nports: ['80:80']\nvolumes: ['data:/d', './x:/x']")
        + "volumes: { data: }\n";
    let second = "services:\n  web:\n    image: other:$TAG\n    environment: { B: 2 }\n    ports: ['80:80', '90:90']\n    \
                  volumes: ['/tmp:/d']\n  extra: { image: x }\n";
    let stack = read_both(&first, second).unwrap_or_else(|found| panic!("{}", lines(&found)));
    let names: Vec<&str> = stack.services.iter().map(|service| service.spec.name.as_str()).collect();
    assert_eq!(names, ["shop_web", "shop_extra"]);
    let spec = &stack.services[0].spec;
    assert_eq!(spec.container.image, "other:1.27");
    let environment: Vec<_> = spec.container.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(environment, ["A=1", "B=2"]);
    assert_eq!(spec.ports.iter().map(|port| port.container_port).collect::<Vec<_>>(), [80, 90]);
    let mounts: Vec<_> =
        spec.container.mounts.iter().map(|m| (m.source.as_str(), m.target.as_str())).collect();
    assert_eq!(mounts, [("/tmp", "/d"), ("/srv/shop/x", "/x")]);
    assert_eq!(stack.document()["services"]["web"]["environment"]["B"], 2);
}

#[test]
fn findings_name_the_file_they_are_in() {
    let broken = "services:\n  web:\n    imgae: x\n    build: .\n  db: { image: y,  replicas: 2 }\n";
    let found = read_both(&web("build: ."), broken).unwrap_err();
    assert_eq!(
        lines(&found),
        "b.yaml:3:5: services.web.imgae: unknown key; did you mean image?\n\
         b.yaml:4:5: warning: services.web.build: ignored: images are built beforehand, as for docker stack deploy\n\
         b.yaml:5:20: services.db.replicas: unknown key here; it stands under deploy"
    );
    assert_eq!(lines(&read_both("services: {}", "[").unwrap_err()).split(':').next(), Some("b.yaml"));
    assert_eq!(lines(&read_both("services: {}", "").unwrap_err()), "b.yaml: the file is empty");
}

#[test]
fn what_is_shown_reads_as_the_same() {
    let shown = stack(FULL).document();
    let text = crate::output::yaml::render(&shown);
    let again = read_as(None, &text).unwrap_or_else(|found| panic!("{text}\n{}", lines(&found)));
    let specs =
        |stack: Stack| stack.services.into_iter().map(|s| (s.key, s.spec)).collect::<BTreeMap<_, _>>();
    assert_eq!(specs(again), specs(stack(FULL)));
}
