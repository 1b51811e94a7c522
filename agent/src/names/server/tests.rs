//! Real sockets: who asks, what is known, what is not.

use std::{collections::BTreeMap, net::IpAddr};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use skein_common::{ServiceId, endpoint::ServiceEndpoints, service::BalancePolicy};
use tokio::{sync::watch, task::JoinHandle};

use super::*;

const ASKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

struct Rig {
    at: SocketAddr,
    zone: Arc<ArcSwap<Zone>>,
    known: watch::Sender<super::super::askers::Addresses>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn service(id: u64, stack: &str, name: &str) -> Arc<ServiceEndpoints> {
    Arc::new(ServiceEndpoints {
        service: ServiceId::from_random(id),
        name: name.to_owned(),
        stack: stack.to_owned(),
        address: Some(Ipv4Addr::new(10, 254, 0, u8::try_from(id).unwrap())),
        policy: BalancePolicy::default(),
        ports: Vec::new(),
        routes: Vec::new(),
    })
}

impl Rig {
    async fn start() -> Self {
        let (known, addresses) = watch::channel(Arc::default());
        let zone: Arc<ArcSwap<Zone>> = Arc::default();
        zone.store(Arc::new(Zone::new(&[service(1, "", "web"), service(2, "shop", "shop_web")])));
        let server =
            Server::bind_at((Ipv4Addr::LOCALHOST, 0).into(), Arc::clone(&zone), Askers::new(addresses));
        let server = server.await.unwrap();
        let (at, stop) = (server.udp.local_addr().unwrap(), CancellationToken::new());
        let task = tokio::spawn(server.run(stop.clone()));
        Self { at, zone, known, stop, task }
    }

    fn know(&self, service: u64) {
        self.known.send_replace(Arc::new(BTreeMap::from([(ASKER, ServiceId::from_random(service))])));
    }

    /// Last number of the address, `None` = no such name.
    async fn ask(&self, from: IpAddr, name: &str) -> Option<u8> {
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        socket.send_to(&question(name), self.at).await.unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await.unwrap();
        last(&buffer[..length])
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(9, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn last(answer: &[u8]) -> Option<u8> {
    let answer = Message::from_vec(answer).unwrap();
    assert_eq!(answer.metadata.id, 9);
    answer.answers.first().and_then(|record| match &record.data {
        hickory_proto::rr::RData::A(address) => Some(address.0.octets()[3]),
        _ => None,
    })
}

#[tokio::test]
async fn the_stack_of_who_asks_comes_first() {
    let rig = Rig::start().await;
    let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(rig.ask(own, "web.").await, Some(1), "the machine itself is of no stack");
    rig.know(2);
    assert_eq!(rig.ask(ASKER, "web.").await, Some(2));
    rig.zone.store(Arc::new(Zone::new(&[service(2, "shop", "shop_db")])));
    assert_eq!(rig.ask(ASKER, "web.").await, None, "gone at once");
    assert_eq!(rig.ask(ASKER, "db.").await, Some(2), "there at once");
    rig.stop().await;
}

#[tokio::test]
async fn who_has_just_started_is_waited_for() {
    let rig = Rig::start().await;
    let (answer, ()) = tokio::join!(rig.ask(ASKER, "web."), async {
        tokio::task::yield_now().await;
        rig.know(2);
    });
    assert_eq!(answer, Some(2));
    rig.stop().await;
}

#[tokio::test]
async fn by_tcp_one_question_after_the_other_and_rubbish_ends_it() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(rig.at).await.unwrap();
    for _ in 0..2 {
        forward::write(&mut stream, &question("web.shop.")).await.unwrap();
        assert_eq!(last(&forward::read(&mut stream).await.unwrap()), Some(2));
    }
    forward::write(&mut stream, &[1, 2, 3]).await.unwrap();
    assert!(forward::read(&mut stream).await.is_err(), "closed");
    rig.stop().await;
}

#[tokio::test]
async fn others_are_asked_and_a_loop_is_refused() {
    let rig = Rig::start().await;
    // Another server of ours stands for a resolver of the machine.
    let packet = question("web.");
    let answer = forward::ask_of(&[rig.at], &packet, false).await.unwrap();
    assert_eq!(last(&answer), Some(1));
    let answer = forward::ask_of(&[rig.at], &packet, true).await.unwrap();
    assert_eq!(last(&answer), Some(1));
    let looped = forward::ask_of(&[rig.at], &question("example.org."), false).await.unwrap();
    let code = Message::from_vec(&looped).unwrap().metadata.response_code;
    assert_eq!(code, ResponseCode::Refused, "who asks from our own address would be asked again");
    rig.stop().await;
}
