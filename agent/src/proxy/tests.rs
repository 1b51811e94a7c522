//! Real sockets through the balancer: endpoints that come, go, refuse, hang and break.

mod affinity;
mod bad_input;
mod checks;
mod endpoint;
mod front;
mod h2;
mod introduction;
mod measured;
mod routes;
mod tls;
mod udp;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use skein_common::{
    InstanceId, ServiceId,
    endpoint::{BalancedPort, Endpoint, EndpointsUpdate, ServiceEndpoints},
    service::{Algorithm, BalanceMode, BalancePolicy, HashBy, Protocol, Route},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::endpoint::TestEndpoint;
use super::{Balancer, BalancerHandle, FetchCertificate, ProxyConfig};

/// A balancer with one service on one published port.
struct Rig {
    handle: BalancerHandle,
    port: u16,
    policy: BalancePolicy,
    generation: u64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Rig {
    async fn start(policy: BalancePolicy, endpoints: &[&TestEndpoint]) -> Self {
        let stop = CancellationToken::new();
        let config = ProxyConfig { ingress: Ipv4Addr::LOCALHOST.into(), threads: 2 };
        let (balancer, handle) = Balancer::new(config, stop.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(balancer.run());
        let mut rig = Self { handle, port: free_port().await, policy, generation: 0, tasks, stop };
        rig.serve(endpoints).await;
        rig
    }

    /// A balancer that fetches certificates here, and has been told nothing.
    async fn bare(fetch: FetchCertificate) -> Self {
        let stop = CancellationToken::new();
        let config = ProxyConfig { ingress: Ipv4Addr::LOCALHOST.into(), threads: 2 };
        let (balancer, handle) = Balancer::new(config, stop.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(balancer.with_certificates(fetch).run());
        Self { handle, port: free_port().await, policy: http(), generation: 0, tasks, stop }
    }

    /// These services and no others; the ports have no address of their own.
    async fn route(&mut self, services: &[(&str, &TestEndpoint, Vec<Route>)]) {
        let mut update = self.update(&[]);
        update.services = services
            .iter()
            .enumerate()
            .map(|(position, (name, at, routes))| {
                let mut one = self.service(&[at]);
                one.service = ServiceId::from_random(position as u64 + 1);
                one.name = (*name).to_owned();
                one.ports[0].published = None;
                one.routes.clone_from(routes);
                one
            })
            .collect();
        self.handle.apply(update).await.unwrap();
    }

    /// From now on these.
    async fn serve(&mut self, endpoints: &[&TestEndpoint]) {
        let update = self.update(endpoints);
        self.handle.apply(update).await.unwrap();
    }

    fn update(&mut self, endpoints: &[&TestEndpoint]) -> EndpointsUpdate {
        self.generation += 1;
        EndpointsUpdate {
            term: 1,
            generation: self.generation,
            from: None,
            services: vec![self.service(endpoints)],
            removals: Vec::new(),
        }
    }

    fn service(&self, endpoints: &[&TestEndpoint]) -> ServiceEndpoints {
        let endpoint = |at: &&TestEndpoint| Endpoint {
            instance: at.instance,
            host: at.address.ip().to_string(),
            port: at.address.port(),
            weight: 100,
        };
        let port = BalancedPort {
            container_port: 80,
            protocol: Protocol::Tcp,
            published: Some(self.port),
            endpoints: endpoints.iter().map(endpoint).collect(),
        };
        ServiceEndpoints {
            service: ServiceId::from_random(1),
            name: "web".to_owned(),
            stack: String::new(),
            address: None,
            policy: self.policy.clone(),
            ports: vec![port],
            routes: Vec::new(),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap()
    }

    /// One request on a connection of its own: status and everything after the head.
    async fn ask(&self, request: &str) -> (u16, String) {
        ask_at(self.port, request).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        get_from(self.port, path).await
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// One request on a connection of its own: status and everything after the head.
async fn ask_at(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    // Who is refused may not be read to the end.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    // A reset after the answer is an answer too.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

async fn get_from(port: u16, path: &str) -> (u16, String) {
    ask_at(port, &format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")).await
}

async fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

fn http() -> BalancePolicy {
    BalancePolicy { mode: BalanceMode::Http, slow_start: Duration::ZERO, ..BalancePolicy::default() }
}

#[tokio::test]
async fn requests_are_shared_and_say_who_asked() {
    let [one, two] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let policy = BalancePolicy { algorithm: Algorithm::RoundRobin, ..http() };
    let rig = Rig::start(policy, &[&one, &two]).await;
    let mut seen = BTreeMap::new();
    for _ in 0..10 {
        let (status, body) = rig.get("/who").await;
        assert_eq!(status, 200);
        *seen.entry(body).or_insert(0) += 1;
    }
    assert_eq!(seen.values().collect::<Vec<_>>(), [&5, &5], "{seen:?}");
    let request = "GET /headers HTTP/1.1\r\nhost: shop.example\r\nx-forwarded-for: 203.0.113.9\r\n\
                   connection: close, x-secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\n\r\n";
    let (_, headers) = rig.ask(request).await;
    for expected in [
        "x-forwarded-for: 203.0.113.9\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-host: shop.example\n",
        "x-forwarded-proto: http\n",
        "forwarded: for=127.0.0.1;proto=http\n",
        "host: shop.example\n",
    ] {
        assert!(headers.contains(expected), "{expected:?} is missing in\n{headers}");
    }
    for absent in ["x-secret", "keep-alive", "connection"] {
        assert!(!headers.contains(absent), "{absent} passed:\n{headers}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn no_request_fails_while_endpoints_come_and_go() {
    let [one, two, three] =
        [TestEndpoint::start(1).await, TestEndpoint::start(2).await, TestEndpoint::start(3).await];
    let mut rig = Rig::start(http(), &[&one, &two]).await;
    let port = rig.port;
    let done = CancellationToken::new();
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(endpoint::hammer(port, done.clone()))).collect();
    for round in 0..20 {
        let endpoints: &[&TestEndpoint] = match round % 3 {
            0 => &[&two, &three],
            1 => &[&one, &three],
            _ => &[&one, &two],
        };
        let before = endpoints[0].served() + endpoints[1].served();
        rig.serve(endpoints).await;
        while endpoints[0].served() + endpoints[1].served() < before + 40 {
            tokio::task::yield_now().await;
        }
    }
    done.cancel();
    for client in clients {
        let (answered, failed) = client.await.unwrap();
        assert_eq!(failed, 0, "of {answered}");
        assert!(answered > 0);
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_dies_fails_nobody_who_may_ask_again() {
    let [one, mut two] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let rig = Rig::start(http(), &[&one, &two]).await;
    let done = CancellationToken::new();
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(endpoint::hammer(rig.port, done.clone()))).collect();
    while two.served() < 20 {
        tokio::task::yield_now().await;
    }
    two.kill().await;
    let before = one.served();
    while one.served() < before + 200 {
        tokio::task::yield_now().await;
    }
    done.cancel();
    for client in clients {
        let (answered, failed) = client.await.unwrap();
        assert_eq!(failed, 0, "of {answered}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_an_endpoint_may_have_seen_is_not_sent_twice() {
    let [breaking, good] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let policy = BalancePolicy { algorithm: Algorithm::RoundRobin, ..http() };
    let rig = Rig::start(policy, &[&breaking, &good]).await;
    let post = "POST /break-on-1 HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    let mut statuses = BTreeMap::new();
    for _ in 0..4 {
        *statuses.entry(rig.ask(post).await.0).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 2), (502, 2)]), "half of them met the one that breaks");
    assert_eq!((breaking.served(), good.served()), (2, 2));
    for _ in 0..4 {
        assert_eq!(rig.get("/break-on-1").await.0, 200, "a GET is tried elsewhere");
    }
    rig.stop().await;
}

#[tokio::test]
async fn bodies_pass_both_ways_and_hold_their_endpoint() {
    let one = TestEndpoint::start(1).await;
    let mut rig = Rig::start(http(), &[&one]).await;
    let body = "x".repeat(300_000);
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, echoed) = rig.ask(&request).await;
    assert_eq!((status, echoed.len()), (200, body.len()));
    // Begun with an endpoint that is then taken out: it is answered to the end.
    let mut stream = rig.connect().await;
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\nconnection: close\r\n\r\nab")
        .await
        .unwrap();
    while one.served() < 2 {
        tokio::task::yield_now().await;
    }
    rig.serve(&[]).await;
    stream.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("abcd"), "{answer}");
    rig.stop().await;
}

#[tokio::test]
async fn a_websocket_passes() {
    let one = TestEndpoint::start(1).await;
    let rig = Rig::start(http(), &[&one]).await;
    let mut stream = rig.connect().await;
    let request = b"GET /upgrade HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    drop(stream);
    rig.stop().await;
}

#[tokio::test]
async fn without_endpoints_a_request_waits_for_one_and_no_longer() {
    let one = TestEndpoint::start(1).await;
    let mut policy = http();
    policy.timeouts.connect = Duration::from_millis(50);
    let mut rig = Rig::start(policy, &[]).await;
    let (status, body) = rig.get("/who").await;
    assert_eq!((status, body.as_str()), (503, "skein: web: no instance is ready\n"));
    rig.policy.timeouts.connect = Duration::from_secs(30);
    rig.serve(&[]).await;
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
    rig.serve(&[&one]).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_answer_is_given_up_in_time() {
    let one = TestEndpoint::start(1).await;
    let mut policy = http();
    policy.timeouts.request = Duration::from_millis(50);
    let rig = Rig::start(policy, &[&one]).await;
    assert_eq!(rig.get("/hang").await.0, 504);
    rig.stop().await;
}

#[tokio::test]
async fn the_same_key_goes_to_the_same_endpoint() {
    let [one, two] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let algorithm = Algorithm::ConsistentHash { by: HashBy::Cookie("user".to_owned()) };
    let rig = Rig::start(BalancePolicy { algorithm, ..http() }, &[&one, &two]).await;
    let mut seen = BTreeMap::new();
    for round in 0..40 {
        let user = round % 8;
        let request = format!(
            "GET /who HTTP/1.1\r\nhost: web\r\ncookie: a=b; user={user}\r\nconnection: close\r\n\r\n"
        );
        let (_, who) = rig.ask(&request).await;
        assert_eq!(*seen.entry(user).or_insert(who.clone()), who, "user {user}");
    }
    assert!(one.served() > 0 && two.served() > 0, "{seen:?}");
    rig.stop().await;
}

#[tokio::test]
async fn connections_pass_whole_and_go_around_what_refuses() {
    let one = TestEndpoint::start(1).await;
    let mut gone = TestEndpoint::start(2).await;
    gone.kill().await;
    let policy =
        BalancePolicy { mode: BalanceMode::Tcp, slow_start: Duration::ZERO, ..BalancePolicy::default() };
    let rig = Rig::start(policy, &[&one, &gone]).await;
    for _ in 0..10 {
        assert_eq!(rig.get("/who").await, (200, "1".to_owned()));
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_byte_passes_however_slowly_it_is_taken() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = TestEndpoint::at(1, listener.local_addr().unwrap());
    let rig = Rig::start(BalancePolicy::default(), &[&at]).await;
    // Everything is read before anything is answered, and the end of one direction is not the end of the other.
    let endpoint = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
    });
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let mut client = rig.connect().await;
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert!(heard == sent, "{} bytes of {}", heard.len(), sent.len());
    endpoint.await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_port_passes_from_one_service_to_another() {
    let one = TestEndpoint::start(1).await;
    let rig = Rig::start(http(), &[&one]).await;
    let empty = |generation| EndpointsUpdate {
        term: 1,
        generation,
        from: None,
        services: Vec::new(),
        removals: Vec::new(),
    };
    rig.handle.apply(empty(10)).await.unwrap();
    // The accept loops end by themselves a moment later.
    while TcpStream::connect((Ipv4Addr::LOCALHOST, rig.port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn one_port_of_a_container_may_be_published_twice() {
    let one = TestEndpoint::start(1).await;
    let mut rig = Rig::start(http(), &[&one]).await;
    let (first, second) = (rig.port, free_port().await);
    let mut update = rig.update(&[&one]);
    let again = BalancedPort { published: Some(second), ..update.services[0].ports[0].clone() };
    update.services[0].ports.push(again);
    rig.handle.apply(update).await.unwrap();
    for port in [first, second] {
        rig.port = port;
        assert_eq!(rig.get("/who").await, (200, "1".to_owned()), "{port}");
    }
    rig.stop().await;
}

fn local(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}

fn instance(number: u64) -> InstanceId {
    InstanceId::from_random(number)
}
