//! What the balancer is measured with: its proxy as a process of its own, and backends behind it.
//!
//! Runs until it is killed. Invariant: the proxy is the agent's, told its endpoints once, without masters.

#![allow(clippy::expect_used)]

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use skein_agent::proxy::{Balancer, ProxyConfig};
use skein_common::{
    InstanceId, ServiceId,
    endpoint::{BalancedPort, Endpoint, EndpointsUpdate, ServiceEndpoints},
    service::{Algorithm, BalanceMode, BalancePolicy, Protocol},
};
use tokio::{net::TcpListener, runtime, sync::Semaphore, task, time};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(about = "The balancer alone, or a backend for it")]
enum Arguments {
    /// Shares what comes to the port out among the endpoints.
    Proxy {
        #[arg(long)]
        listen: u16,
        #[arg(long, default_value_t = Mode::Http)]
        mode: Mode,
        #[arg(long, default_value_t = Choice::LeastRequests)]
        algorithm: Choice,
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// In milliseconds, to the head of an answer.
        #[arg(long, default_value_t = 60_000)]
        request_timeout: u64,
        #[arg(long, value_delimiter = ',', required = true)]
        endpoints: Vec<SocketAddr>,
    },
    /// Answers each request with a few bytes.
    Backend {
        #[arg(long)]
        listen: u16,
        #[arg(long, default_value_t = Behaviour::Answers)]
        behaviour: Behaviour,
        /// Microseconds of work for each request; at most `--workers` are worked on at once.
        #[arg(long, default_value_t = 0)]
        work: u64,
        #[arg(long, default_value_t = 8)]
        workers: usize,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Http,
    Tcp,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Choice {
    RoundRobin,
    LeastRequests,
    Adaptive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Behaviour {
    Answers,
    Hangs,
    Fails,
}

macro_rules! shown_as_values {
    ($($kind:ty),*) => {$(
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}
shown_as_values!(Mode, Choice, Behaviour);

fn main() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    task::LocalSet::new().block_on(&runtime, run(Arguments::parse()));
}

async fn run(arguments: Arguments) {
    match arguments {
        Arguments::Proxy { listen, mode, algorithm, threads, request_timeout, endpoints } => {
            let mut policy = BalancePolicy {
                mode: match mode {
                    Mode::Http => BalanceMode::Http,
                    Mode::Tcp => BalanceMode::Tcp,
                },
                algorithm: match algorithm {
                    Choice::RoundRobin => Algorithm::RoundRobin,
                    Choice::LeastRequests => Algorithm::LeastRequests,
                    Choice::Adaptive => Algorithm::Adaptive,
                },
                ..BalancePolicy::default()
            };
            policy.timeouts.request = Duration::from_millis(request_timeout);
            proxy(listen, threads, policy, &endpoints).await;
        }
        Arguments::Backend { listen, behaviour, work, workers } => {
            backend(listen, behaviour, Duration::from_micros(work), workers).await;
        }
    }
}

async fn proxy(listen: u16, threads: usize, policy: BalancePolicy, endpoints: &[SocketAddr]) {
    let config = ProxyConfig { ingress: Ipv4Addr::LOCALHOST.into(), threads };
    let (balancer, handle) = Balancer::new(config, CancellationToken::new());
    let running = tokio::spawn(balancer.run());
    let endpoints = endpoints.iter().zip(1..).map(|(at, number)| Endpoint {
        instance: InstanceId::from_random(number),
        host: at.ip().to_string(),
        port: at.port(),
        weight: 100,
    });
    let port = BalancedPort {
        container_port: 80,
        protocol: Protocol::Tcp,
        published: Some(listen),
        endpoints: endpoints.collect(),
    };
    let service = ServiceEndpoints {
        service: ServiceId::from_random(1),
        name: "bench".to_owned(),
        stack: String::new(),
        address: None,
        policy,
        ports: vec![port],
        routes: Vec::new(),
    };
    let (term, generation, from) = (1, 1, None);
    let update = EndpointsUpdate { term, generation, from, services: vec![service], removals: Vec::new() };
    handle.apply(update).await.expect("the balancer runs");
    running.await.expect("the balancer runs");
}

async fn backend(listen: u16, behaviour: Behaviour, work: Duration, workers: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, listen)).await.expect("the port is free");
    let workers = Arc::new(Semaphore::new(workers));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let workers = Arc::clone(&workers);
        task::spawn_local(async move {
            let service = service_fn(|_: Request<Incoming>| answer(behaviour, work, &workers));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    behaviour: Behaviour,
    work: Duration,
    workers: &Semaphore,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if behaviour == Behaviour::Hangs {
        std::future::pending::<()>().await;
    }
    if !work.is_zero() {
        let _turn = workers.acquire().await;
        time::sleep(work).await; // polls: nothing, this is the work
    }
    let mut response = Response::new(Full::new(Bytes::from_static(&[b'x'; 128])));
    if behaviour == Behaviour::Fails {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}
