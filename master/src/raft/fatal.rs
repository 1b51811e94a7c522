//! The end of the process, injected: what a master does when its disk or its log betrays it.
//!
//! Invariant: after a failed write or fsync nothing is acknowledged any more. The pages of a
//! failed fsync are marked clean by the kernel, so a retry would lie; only a restart, which reads
//! the log back, can tell what is there.
//! Deliberately not here: errors a caller can handle.

use std::{fmt, sync::Arc};

/// Exit code of a master whose storage failed (`EX_IOERR`). Restarting checks the log first.
pub const EXIT_STORAGE_FAILED: i32 = 74;

/// Called once with the reason, from any thread. It need not return.
#[derive(Clone)]
pub struct FatalHandler(Arc<dyn Fn(&str) + Send + Sync>);

impl FatalHandler {
    /// What to do instead of ending the process: for tests.
    pub fn new(handler: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(handler))
    }

    /// Logs the reason and ends the process with [`EXIT_STORAGE_FAILED`].
    #[must_use]
    pub fn exit_process() -> Self {
        Self::new(|reason| {
            tracing::error!(reason, exit_code = EXIT_STORAGE_FAILED, "this master cannot go on");
            std::process::exit(EXIT_STORAGE_FAILED)
        })
    }

    pub fn call(&self, reason: &str) {
        (self.0)(reason);
    }
}

impl fmt::Debug for FatalHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHandler")
    }
}
