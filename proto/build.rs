//! Compiles `skein/v1/*.proto` in Rust (no protoc) into the generated module and the
//! descriptor set that server reflection and the CLI use.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=skein");
    let mut files: Vec<PathBuf> =
        fs::read_dir("skein/v1")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("skein.bin"), descriptors.encode_to_vec())?;
    // Large and seldom there: every future that holds a spec would hold room for them.
    let mut configured = tonic_prost_build::configure().bytes(".skein.v1");
    for seldom in [
        "ContainerSpec.probes",
        "ContainerSpec.healthcheck",
        "ServiceSpec.rollback",
        "ServiceSpec.balance",
        "ServiceSpec.autoscale",
    ] {
        configured = configured.boxed(format!(".skein.v1.{seldom}"));
    }
    configured.compile_fds(descriptors)?;
    Ok(())
}
