//! HAProxy and nginx from Debian's packages, set up like the balancer: one thread, the same backends, connections kept.
//!
//! Invariant: they are started and ended here, in a folder of their own; where one is missing its column is empty.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{ports::Port, process::Process};

/// Debian keeps them where a user's PATH does not lead.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];

/// Who carries the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Skein,
    Haproxy,
    Nginx,
}

/// What it understands of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Http,
    Tcp,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// The program's path, or `None` where it is not installed.
#[must_use]
pub fn found(name: &str) -> Option<PathBuf> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let known = std::env::split_paths(&own).chain(FOLDERS.iter().map(PathBuf::from));
    known.map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Carrier {
    /// Listens on the port; `None` = it is not installed, or cannot do this.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(self, mode: Mode, port: &Port, backends: &[Port], folder: &Path) -> Result<Option<Process>> {
        let name = format!("{self:?}-{}-{}", mode.name(), port.number()).to_lowercase();
        let mut process = match self {
            Self::Skein => {
                let endpoints: Vec<String> = backends.iter().map(Port::to_string).collect();
                let arguments = vec![
                    "proxy".to_owned(),
                    format!("--listen={}", port.number()),
                    format!("--mode={}", mode.name()),
                    format!("--endpoints={}", endpoints.join(",")),
                ];
                Process::new(&name, "balance-peer", arguments, folder)?
            }
            Self::Haproxy => {
                let Some(program) = found("haproxy") else { return Ok(None) };
                let file = folder.join(format!("{name}.cfg"));
                fs::write(&file, haproxy(mode, port, backends)?)?;
                let file = file.to_str().context("a path in UTF-8")?.to_owned();
                Process::foreign(&name, &program, vec!["-db".to_owned(), "-f".to_owned(), file], folder)
            }
            Self::Nginx => {
                let Some(program) = found("nginx").filter(|_| mode == Mode::Http) else { return Ok(None) };
                let own = folder.join(&name);
                fs::create_dir_all(&own)?;
                let file = own.join("nginx.conf");
                fs::write(&file, nginx(&own, port, backends)?)?;
                let path = |path: &Path| path.to_str().map(ToOwned::to_owned).context("a path in UTF-8");
                let arguments = vec!["-p".to_owned(), path(&own)?, "-c".to_owned(), path(&file)?];
                Process::foreign(&name, &program, arguments, folder)
            }
        };
        process.start()?;
        Ok(Some(process))
    }
}

fn haproxy(mode: Mode, port: &Port, backends: &[Port]) -> Result<String> {
    let mode_lines = match mode {
        Mode::Http => "  mode http\n  option forwardfor\n  http-reuse always\n",
        Mode::Tcp => "  mode tcp\n",
    };
    let mut text = format!(
        "global\n  nbthread 1\ndefaults\n{mode_lines}  timeout connect 2s\n  timeout client 5m\n  \
         timeout server 5m\n  timeout http-keep-alive 5m\nfrontend in\n  bind {port}\n  default_backend out\nbackend out\n  \
         balance leastconn\n"
    );
    for (number, backend) in backends.iter().enumerate() {
        writeln!(text, "  server s{number} {backend}")?;
    }
    Ok(text)
}

fn nginx(own: &Path, port: &Port, backends: &[Port]) -> Result<String> {
    let own = own.display();
    let mut servers = String::new();
    for backend in backends {
        writeln!(servers, "    server {backend};")?;
    }
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders: String = kinds.map(|kind| format!("  {kind}_temp_path {own}/{kind};\n")).concat();
    Ok(format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {own}/pid;\nerror_log stderr error;\nevents {{ \
         worker_connections 32768; }}\nhttp {{\n  access_log off;\n{folders}  keepalive_requests 100000000;\n  \
         keepalive_timeout 300s;\n  upstream out {{\n    least_conn;\n{servers}    keepalive 256;\n    keepalive_requests \
         100000000;\n  }}\n  server {{\n    listen {port};\n    location / {{\n      proxy_pass http://out;\n      \
         proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_set_header X-Forwarded-For \
         $proxy_add_x_forwarded_for;\n    }}\n  }}\n}}\n"
    ))
}
