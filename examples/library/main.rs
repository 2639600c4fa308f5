//! Makes a sandbox, runs commands in it, gives it a file, measures it and stops it:
//!
//! ```sh
//! cargo run --example library -- ./rootfs README.md
//! ```
//!
//! The image may be a directory of files, an OCI layout, or a reference. The machine needs what
//! `msb doctor` asks for, and `msb` in `PATH`.
#![allow(clippy::print_stdout, reason = "an example tells what it does")]
#![allow(clippy::disallowed_methods, reason = "an example has arguments")]

use std::path::Path;

use msb::client::{Client, Error, ExecConfig, SandboxConfig, Stdin};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(image), Some(file)) = (words.next(), words.next()) else {
        return Err("say which image, and a file that the sandbox may have".into());
    };
    for line in tour(&Client::new()?, &image, file.as_ref()).await? {
        println!("{line}");
    }
    Ok(())
}

/// What a visit to a sandbox shows.
pub(crate) async fn tour(client: &Client, image: &str, file: &Path) -> Result<Vec<String>, Error> {
    let mut seen = Vec::new();
    let config = SandboxConfig::new("tour", image).memory_mib(256).env("GREETING", "hello");
    // Lives as long as `sandbox`, or until it is stopped.
    let sandbox = client.create(config.replace(true)).await?;

    let output = sandbox.shell("echo $GREETING; exit 3").await?;
    seen.push(format!("it said {:?} and ended with {}", output.stdout(), output.code()));

    let sort = ExecConfig::new("sort").stdin(Stdin::Bytes(b"pear\napple\n".to_vec()));
    seen.push(format!("sorted: {:?}", sandbox.exec_with(sort).await?.stdout()));

    let name = file.file_name().unwrap_or(file.as_os_str());
    let place = Path::new("/tmp").join(name);
    sandbox.fs().copy_from_host(file, &place).await?;
    let size = sandbox.fs().stat(&place).await?.size;
    seen.push(format!("copied {size} bytes"));
    sandbox.fs().remove(&place).await?;

    let metrics = sandbox.metrics().await?;
    seen.push(format!("it uses memory: {}", metrics.memory_bytes > 0));

    let ended = sandbox.stop_and_wait().await?;
    seen.push(format!("it is {}", ended.status));
    sandbox.remove_persisted().await?;
    Ok(seen)
}
