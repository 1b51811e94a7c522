//! Who is connected, so that stopping loses no request.
//!
//! Invariant: once [`Connections::stop`] was called, every request whose bytes had arrived is
//! answered, and [`Connections::wait_until_closed`] returns after the last answer. A connection
//! that waits for its next request is only shut for reading: bytes already received are still
//! read, then it sees the end.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a connection accepted while stopping may take to send its request.
const LAST_REQUEST_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct Connections {
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    last_id: u64,
    open: HashMap<u64, TcpStream>,
}

impl Connections {
    /// Registers a new connection.
    pub fn open(&self, stream: &TcpStream) -> io::Result<u64> {
        let reader = stream.try_clone()?;
        let mut state = self.lock();
        if state.stopping {
            reader.set_read_timeout(Some(LAST_REQUEST_WAIT))?;
        }
        state.last_id += 1;
        let id = state.last_id;
        state.open.insert(id, reader);
        Ok(id)
    }

    pub fn close(&self, id: u64) {
        self.lock().open.remove(&id);
        self.closed.notify_all();
    }

    /// From now on connections end after the request they are working on.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        for stream in state.open.values() {
            // The peer may be gone already; then there is nothing to shut.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub fn wait_until_closed(&self) {
        let state = self.lock();
        drop(
            self.closed
                .wait_while(state, |state| !state.open.is_empty())
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
