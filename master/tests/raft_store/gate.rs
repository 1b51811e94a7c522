//! A door in front of a master's cluster port, which can be shut.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::harness::patiently;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Open,
    /// Connections are closed, and new ones refused.
    Shut,
    /// Connections stay, but nothing passes any more.
    Stuck,
}

/// Only what comes *to* the master passes through it; its own calls go out freely.
pub struct Gate {
    outside: SocketAddr,
    inside: SocketAddr,
    door: watch::Sender<Door>,
    accepting: Option<JoinHandle<()>>,
}

impl Gate {
    /// Lets what arrives at `outside` through to `inside`.
    pub fn new(outside: TcpListener, inside: SocketAddr) -> Self {
        let (door, seen) = watch::channel(Door::Open);
        let address = outside.local_addr().unwrap();
        let accepting = Some(tokio::spawn(accept(outside, inside, seen)));
        Self { outside: address, inside, door, accepting }
    }

    pub async fn set(&mut self, door: Door) {
        self.door.send_replace(door);
        if door == Door::Shut {
            if let Some(accepting) = self.accepting.take() {
                accepting.abort();
                let _ = accepting.await;
            }
        } else if self.accepting.is_none() {
            let listener =
                patiently("the port is free", async || TcpListener::bind(self.outside).await.ok()).await;
            self.accepting = Some(tokio::spawn(accept(listener, self.inside, self.door.subscribe())));
        }
    }
}

async fn accept(outside: TcpListener, inside: SocketAddr, door: watch::Receiver<Door>) {
    while let Ok((caller, _)) = outside.accept().await {
        tokio::spawn(pass(caller, inside, door.clone()));
    }
}

async fn pass(mut caller: TcpStream, inside: SocketAddr, mut door: watch::Receiver<Door>) {
    if *door.borrow() == Door::Open {
        let Ok(mut master) = TcpStream::connect(inside).await else { return };
        let _ = (caller.set_nodelay(true), master.set_nodelay(true));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut caller, &mut master) => return,
            _ = door.wait_for(|door| *door != Door::Open) => {}
        }
    }
    // Both connections are held, and nothing passes.
    let _ = door.wait_for(|door| *door != Door::Stuck).await;
}
