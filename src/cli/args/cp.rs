//! Files into and out of sandboxes.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_long_help = "\
One of SRC and DST is SANDBOX:PATH, the other is here or `-`. Where DST is a directory that exists, \
SRC goes into it under its own name, or, when SRC ends in `/.`, what is in SRC does; a DST that does \
not exist is what SRC is called then. Modes, times, links and holes are kept, pipes and devices are \
left out. As SRC, `-` is a tar archive on standard input, and DST a directory that exists; as DST, \
`-` is standard output and gets a tar archive.

A file or a directory that is new gets its name when it is complete. Files in the sandbox belong to \
root, files here to you. No link of the sandbox is followed here.")]
pub(crate) struct Cp {
    /// What to copy: `SANDBOX:PATH`, a path here, or `-`
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Where to: `SANDBOX:PATH`, a path here, or `-`
    #[arg(value_name = "DST")]
    pub(crate) target: String,
    /// Keep owners, and in the sandbox setuid, setgid and sticky bits; here, owners only as root
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what SRC leads to where it is a symbolic link
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
}
