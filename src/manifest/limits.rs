//! Limits on what a Sandboxfile may ask of its reader. Nesting of values is limited by the TOML
//! parser, to 80 levels.

/// The largest Sandboxfile, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// The largest env file, in bytes.
pub const MAX_ENV_FILE_BYTES: usize = 1 << 20;
/// The most variables of one env file.
pub const MAX_ENV_FILE_VARIABLES: usize = 10_000;
/// How deep includes may nest.
pub const MAX_INCLUDE_DEPTH: usize = 16;
/// The most Sandboxfiles and env files of one project.
pub const MAX_FILES: usize = 1_000;
/// How long a chain of `extends` may be.
pub const MAX_EXTENDS_DEPTH: usize = 32;
/// The most sandboxes of one project.
pub const MAX_SANDBOXES: usize = 20_000;
/// The most of any other declaration (volumes, secrets, registries, networks, templates).
pub const MAX_DECLARATIONS: usize = 20_000;
/// How deep `${A:-${B:-…}}` may nest.
pub const MAX_INTERPOLATION_DEPTH: usize = 16;
/// The longest value after interpolation, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// The most bytes that interpolation may produce in one run.
pub const MAX_EXPANDED_BYTES: usize = 64 << 20;
/// The most values that merging defaults and templates under sandboxes may copy in one run.
pub const MAX_MERGED_VALUES: usize = 4_000_000;
/// The most diagnostics of one run; what follows is only counted.
pub const MAX_DIAGNOSTICS: usize = 200;
