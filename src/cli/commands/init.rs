//! `msb init`: a first Sandboxfile.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use crate::cli::args::Init;
use crate::cli::error::{CliError, Exit, FileError};
use crate::cli::ui::Ui;
use crate::spec::Name;

pub(crate) fn run(ui: &Ui, args: &Init) -> Result<Exit, CliError> {
    let path = args.path.clone().unwrap_or_else(|| PathBuf::from("Sandboxfile"));
    let text = template(project_name(&path).as_ref(), &args.image);
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    if args.force {
        options.truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("{}: there is a file already", path.display());
            return Err(CliError::message(Exit::Failed, message)
                .hint("`--force` overwrites it; `msb init FILE` writes elsewhere"));
        }
        Err(error) => return Err(FileError::write(&path, error).into()),
    }
    ui.say(&format!("wrote {}; next: `msb plan`, then `msb up`", path.display()));
    Ok(Exit::Ok)
}

/// The name of the directory, where it is a valid project name.
fn project_name(path: &std::path::Path) -> Option<Name> {
    let absolute = std::path::absolute(path).ok()?;
    let directory = absolute.parent()?.file_name()?.to_str()?.to_lowercase();
    Name::new(directory).ok()
}

fn template(name: Option<&Name>, image: &str) -> String {
    let name = name.map_or_else(String::new, |name| format!("name = \"{name}\"\n\n"));
    // TOML basic strings and JSON strings escape alike.
    let image = serde_json::Value::from(image);
    format!(
        "# What `msb up` starts. `msb config --explain sandbox` lists the keys.\n\
         {name}[sandbox.hello]\n\
         image = {image}\n\
         cmd = [\"/bin/sh\", \"-c\", \"echo hello from $$(uname -sr); exec sleep 1000000\"]\n\
         network = {{ policy = \"none\" }}\n"
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_template() {
        let name = Name::new("demo").ok();
        expect![[r#"
            # What `msb up` starts. `msb config --explain sandbox` lists the keys.
            name = "demo"

            [sandbox.hello]
            image = "alpine:3"
            cmd = ["/bin/sh", "-c", "echo hello from $$(uname -sr); exec sleep 1000000"]
            network = { policy = "none" }
        "#]]
        .assert_eq(&template(name.as_ref(), "alpine:3"));
    }
}
