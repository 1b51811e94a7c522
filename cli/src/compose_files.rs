//! The Compose files that a command names, from disk or standard input.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    app::App,
    compose::{self, Source, Stack},
    failure::Failure,
};

/// What the files say together; warnings have been said.
///
/// # Errors
/// When a file cannot be read, or is wrong.
pub fn read(app: &App, files: &[PathBuf], stack: Option<&str>) -> Result<Stack, Failure> {
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        sources.push(source(app, file)?);
    }
    let folder = match files.first() {
        Some(file) if !is_standard_input(file) => app.folder.join(file).parent().map(Path::to_path_buf),
        _ => None,
    };
    let folder = folder.unwrap_or_else(|| app.folder.clone());
    // The folder's own name may be the stack's, so `.` will not do.
    let folder = folder.canonicalize().unwrap_or(folder);
    let input = compose::Input {
        files: &sources,
        folder: &folder,
        stack,
        environment: &app.environment,
        read_file: &|path| std::fs::read_to_string(path),
    };
    let stack = compose::read(&input).map_err(Failure::File)?;
    for warning in &stack.warnings {
        app.terminal.note(&warning.to_string());
    }
    Ok(stack)
}

fn is_standard_input(file: &Path) -> bool {
    file == Path::new("-")
}

fn source(app: &App, file: &Path) -> Result<Source, Failure> {
    let (name, text) = if is_standard_input(file) {
        ("standard input".to_owned(), standard_input())
    } else {
        (file.display().to_string(), std::fs::read_to_string(app.folder.join(file)))
    };
    match text {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(Failure::Usage(format!("{name}: {error}"))),
    }
}

fn standard_input() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
