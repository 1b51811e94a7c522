//! Listens, gives every connection a thread, and stops gracefully on SIGTERM or SIGINT: takes
//! what is already in the listen queue, refuses what comes later, answers what it has, returns.

use std::io::{self, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::client;
use crate::config::Config;
use crate::connections::Connections;
use crate::http::{self, Response};
use crate::routes::{self, After, Site};

/// Small stacks: a load test opens thousands of connections.
const CONNECTION_STACK_BYTES: usize = 64 * 1024;
/// An idle keep-alive connection ends after this.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// Serves until it is told to stop.
pub fn run(config: &Config) -> io::Result<()> {
    // First of all, because PID 1 has no default signal handlers.
    let signals = Signals::new([SIGTERM, SIGINT])?;
    exit_when_due(config);
    if let Some(delay) = config.start_after {
        thread::sleep(delay);
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, config.port))?;
    let address = listener.local_addr()?;
    let server = Server { connections: Arc::default(), site: Arc::new(Site::from_environment()) };
    server.stop_on_signal(signals, address, config.ignore_term);
    println!("listening on {address}");
    if let Some(port) = config.udp_port {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        println!("udp on {}", socket.local_addr()?);
        let who = routes::host_name();
        thread::spawn(move || client::echo(&socket, &who));
    }
    server.accept(&listener)?;
    drop(listener);
    server.connections.wait_until_closed();
    println!("stopped");
    Ok(())
}

fn exit_when_due(config: &Config) {
    let (code, Some(after)) = (config.exit_code, config.exit_after) else { return };
    thread::spawn(move || {
        thread::sleep(after);
        println!("exiting with {code} as told");
        std::process::exit(i32::from(code));
    });
}

#[derive(Clone)]
struct Server {
    connections: Arc<Connections>,
    site: Arc<Site>,
}

impl Server {
    fn stop_on_signal(&self, mut signals: Signals, address: SocketAddr, ignore_term: bool) {
        let connections = Arc::clone(&self.connections);
        thread::spawn(move || {
            for signal in signals.forever() {
                if signal == SIGTERM && ignore_term {
                    println!("ignoring SIGTERM");
                    continue;
                }
                println!("stopping on signal {signal}");
                connections.stop();
                // The acceptor sits in accept(): a connection from ourselves wakes it.
                drop(TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())));
            }
        });
    }

    fn accept(&self, listener: &TcpListener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.serve_in_background(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    // Out of descriptors, or a client that left: the next one may do.
                    eprintln!("accept: {error}");
                    thread::sleep(Duration::from_millis(10));
                }
            }
            if self.connections.is_stopping() {
                // Clients in the listen queue think they are connected: take them, then end.
                listener.set_nonblocking(true)?;
            }
        }
    }

    /// Registers before the thread exists: stopping waits for it from here on.
    fn serve_in_background(&self, stream: TcpStream) {
        let id = match self.connections.open(&stream) {
            Ok(id) => id,
            Err(error) => return eprintln!("connection: {error}"),
        };
        let server = self.clone();
        let spawned = thread::Builder::new().stack_size(CONNECTION_STACK_BYTES).spawn(move || {
            // A client that leaves or talks nonsense ends its own connection, nothing else.
            let _ = server.serve(&stream);
            server.connections.close(id);
        });
        if let Err(error) = spawned {
            eprintln!("connection: no thread: {error}");
            self.connections.close(id);
        }
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        if !self.connections.is_stopping() {
            stream.set_read_timeout(Some(IDLE_LIMIT))?;
        }
        let mut reader = BufReader::new(stream);
        let mut writer = stream;
        loop {
            let request = match http::read_request(&mut reader) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Response::text(400, format!("{error}\n")).write(&mut writer, false);
                }
                Err(error) => return Err(error),
            };
            let (response, after) = self.site.answer(&request);
            let keep_alive = request.keep_alive && !self.connections.is_stopping();
            let written = response.write(&mut writer, keep_alive);
            if let After::Exit(code) = after {
                std::process::exit(code);
            }
            written?;
            if !keep_alive {
                return Ok(());
            }
        }
    }
}
