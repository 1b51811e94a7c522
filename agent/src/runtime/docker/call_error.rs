//! Why a call to the engine failed, and what that means for the step it was part of.
//!
//! Invariant: no answer, and an answer of an engine that is going down, is `Unavailable`
//! whatever was asked: nothing is concluded from it about the container.
//! Deliberately not here: what to do next (`agent/core`).

use bollard::errors::Error as BollardError;

use super::super::RuntimeError;

/// Longer answers are cut: they end in reports that travel through the log.
const LONGEST_MESSAGE: usize = 512;

/// A failed call, before its meaning for the caller is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// Refused, reset, ended early, too late.
    #[error("{0}")]
    NoAnswer(String),
    /// The engine's answer.
    #[error("{message}")]
    Refused { status: u16, message: String },
    /// An answer of another shape than its API promises.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
}

/// Parts of answers by an engine that cannot do anything now, rather than not this.
const GOING_DOWN: &[&str] = &[
    "shutting down",
    "transport is closing",
    "error while dialing",
    "connection error",
    "connection refused",
    "connection reset",
    "ttrpc: closed",
    "context canceled",
    "context deadline exceeded",
    ": unavailable",
    "code = unavailable",
];

/// Parts of answers to a start that cannot succeed here while others keep what it needs.
const PORT_TAKEN: &[&str] =
    &["port is already allocated", "address already in use", "ports are not available"];

/// Parts of answers about mounts that this node cannot make.
const BAD_MOUNT: &[&str] = &[
    "invalid mount config",
    "bind source path does not exist",
    "error mounting",
    "failed to mount",
    "error while mounting volume",
    "mount source path",
    "trying to mount a directory onto a file",
];

impl CallError {
    pub(super) fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// Of a call that only reads: an engine that fails at it is ill.
    pub(super) fn on_read(self, id: &str) -> RuntimeError {
        match self {
            Self::Refused { status: 404, .. } => RuntimeError::NotFound(id.to_owned()),
            Self::Refused { status: 500.., message } => RuntimeError::Unavailable(message),
            other => other.otherwise(),
        }
    }

    pub(super) fn on_create(self, image: &str) -> RuntimeError {
        match self {
            Self::Refused { status: 404, message } if message.to_lowercase().contains("image") => {
                RuntimeError::Image { image: image.to_owned(), reason: message }
            }
            // A parameter the engine refuses, or cannot find (a driver, a network), stays refused.
            Self::Refused { status: 400 | 404, message } => RuntimeError::Rejected(message),
            other => other.otherwise(),
        }
    }

    /// Of start, stop and remove.
    pub(super) fn on_change(self, id: &str) -> RuntimeError {
        match self {
            Self::Refused { status: 404, message } if message.contains("No such container") => {
                RuntimeError::NotFound(id.to_owned())
            }
            other => other.otherwise(),
        }
    }

    pub(super) fn on_pull(self, image: &str) -> RuntimeError {
        match self {
            Self::NoAnswer(reason) => RuntimeError::Unavailable(reason),
            Self::Refused { status: 502..=504, message } => RuntimeError::Unavailable(message),
            Self::Refused { message: reason, .. } | Self::Unreadable(reason) => {
                RuntimeError::Image { image: image.to_owned(), reason }
            }
        }
    }

    fn otherwise(self) -> RuntimeError {
        match self {
            Self::NoAnswer(reason) => RuntimeError::Unavailable(reason),
            Self::Refused { status, message } => {
                let lower = message.to_lowercase();
                let says = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
                if says(PORT_TAKEN) || says(BAD_MOUNT) {
                    RuntimeError::Rejected(without_endpoint(&message).to_owned())
                } else if matches!(status, 502..=504) || (status >= 500 && says(GOING_DOWN)) {
                    RuntimeError::Unavailable(message)
                } else {
                    RuntimeError::Failed(message)
                }
            }
            Self::Unreadable(_) => RuntimeError::Failed(self.to_string()),
        }
    }
}

/// `driver failed programming external connectivity on endpoint skein-web-1-… (59f4…): Bind
/// for 0.0.0.0:80 failed: port is already allocated` begins with what helps nobody.
fn without_endpoint(message: &str) -> &str {
    match message.split_once("): ") {
        Some((before, after)) if before.contains("on endpoint") => after,
        _ => message,
    }
}

impl From<BollardError> for CallError {
    fn from(error: BollardError) -> Self {
        match error {
            BollardError::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: status_code, message: shortened(message) }
            }
            // Only a pull answers 200 and fails in the stream.
            BollardError::DockerStreamError { error } => {
                Self::Refused { status: 500, message: shortened(error) }
            }
            BollardError::JsonDataError { .. }
            | BollardError::JsonSerdeError { .. }
            | BollardError::StrParseError { .. }
            | BollardError::APIVersionParseError {} => Self::Unreadable(shortened(error.to_string())),
            _ => Self::NoAnswer(shortened(root(&error))),
        }
    }
}

/// The reason (`Connection refused`) without the layers of client around it.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

pub(super) fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = message.floor_char_boundary(LONGEST_MESSAGE);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str) -> CallError {
        CallError::Refused { status, message: message.to_owned() }
    }

    #[test]
    fn a_start_is_rejected_only_for_what_others_hold() {
        let bind = "Bind for 0.0.0.0:80 failed: port is already allocated";
        let endpoint =
            format!("driver failed programming external connectivity on endpoint skein-web-1 (59f4): {bind}");
        let listen = "Error starting userland proxy: listen tcp4 0.0.0.0:80: bind: address already in use";
        let mount = "OCI runtime create failed: error mounting \"/etc\" to rootfs: not a directory: unknown";
        let program = "OCI runtime create failed: exec: \"/nope\": no such file or directory: unknown";
        let containerd = "connection error: desc = \"transport: error while dialing: dial unix: refused\"";
        for (status, message, expected) in [
            (500, endpoint.as_str(), RuntimeError::Rejected(bind.to_owned())),
            (500, listen, RuntimeError::Rejected(listen.to_owned())),
            (400, mount, RuntimeError::Rejected(mount.to_owned())),
            (400, program, RuntimeError::Failed(program.to_owned())),
            (500, containerd, RuntimeError::Unavailable(containerd.to_owned())),
            (503, "busy", RuntimeError::Unavailable("busy".to_owned())),
            (404, "No such container: x", RuntimeError::NotFound("x".to_owned())),
            (
                409,
                "container is marked for removal",
                RuntimeError::Failed("container is marked for removal".to_owned()),
            ),
        ] {
            assert_eq!(refused(status, message).on_change("x"), expected);
        }
    }

    #[test]
    fn a_create_tells_a_missing_image_from_a_bad_parameter() {
        let missing = "No such image: web:1";
        let image = RuntimeError::Image { image: "web:1".to_owned(), reason: missing.to_owned() };
        assert_eq!(refused(404, missing).on_create("web:1"), image);
        let mount = "invalid mount config for type \"bind\": bind source path does not exist: /x";
        assert_eq!(refused(400, mount).on_create("web:1"), RuntimeError::Rejected(mount.to_owned()));
        let ill = RuntimeError::Failed("no space left on device".to_owned());
        assert_eq!(refused(500, "no space left on device").on_create("web:1"), ill);
    }

    #[test]
    fn reading_from_an_ill_engine_concludes_nothing() {
        assert_eq!(refused(500, "boom").on_read("x"), RuntimeError::Unavailable("boom".to_owned()));
        assert_eq!(refused(404, "gone").on_read("x"), RuntimeError::NotFound("x".to_owned()));
        let reset = CallError::NoAnswer("reset".to_owned());
        assert_eq!(reset.clone().on_read("x"), RuntimeError::Unavailable("reset".to_owned()));
        assert_eq!(reset.on_pull("x"), RuntimeError::Unavailable("reset".to_owned()));
    }

    #[test]
    fn long_answers_are_cut_between_characters() {
        let cut = shortened("ä".repeat(LONGEST_MESSAGE));
        assert!(cut.ends_with("ä…") && cut.len() <= LONGEST_MESSAGE + '…'.len_utf8());
    }
}
