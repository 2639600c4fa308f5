//! From a request to what the child does: all decisions are made here, before the fork.

use std::collections::BTreeMap;
use std::ffi::CString;

use msb_protocol::{ExecFailure, ExecRequest, Rlimit};

use super::child::{Command, Failure, Stage};
use crate::users::{Identity, lookup};

/// `PATH` of a command whose environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `TERM` of a terminal whose type is not said.
const DEFAULT_TERM: &str = "xterm";

/// The child's work for `request`; `scripts` is a directory that comes first in `PATH`.
pub(super) fn prepare(
    request: &ExecRequest,
    scripts: Option<&str>,
) -> Result<Command, ExecFailure> {
    let program = request.argv.first().map_or("", String::as_str);
    if program.is_empty() {
        return Err(ExecFailure::Invalid("there is no program to run".to_owned()));
    }
    let identity = identity(request)?;
    let env = environment(request, identity.as_ref(), scripts);
    let cwd = match request.cwd.as_deref().unwrap_or("/") {
        cwd if cwd.starts_with('/') => cwd,
        cwd => return Err(ExecFailure::BadWorkdir(cwd.to_owned())),
    };
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let candidates = candidates(program, path);
    let make_dirs = if request.create_cwd { prefixes(cwd) } else { Vec::new() };
    let variables = env.iter().map(|(name, value)| format!("{name}={value}"));
    Ok(Command {
        argv: c_strings(request.argv.iter().cloned())?,
        env: c_strings(variables)?,
        candidates: c_strings(candidates)?,
        make_dirs: c_strings(make_dirs)?,
        cwd: c_string(cwd.to_owned())?,
        identity: identity.map(|identity| (identity.uid, identity.gid, identity.groups)),
        limits: request.rlimits.iter().map(limit).collect::<Result<_, _>>()?,
        tty: request.tty.is_some(),
    })
}

/// What the child's report means for the host.
pub(super) fn explain(request: &ExecRequest, failure: &Failure) -> ExecFailure {
    let program = request.argv.first().cloned().unwrap_or_default();
    let error = &failure.error;
    let code = error.raw_os_error().unwrap_or(0);
    match failure.stage {
        Stage::Workdir => ExecFailure::BadWorkdir(request.cwd.clone().unwrap_or_default()),
        Stage::Exec => match code {
            libc::ENOENT | libc::ENOTDIR => ExecFailure::NotFound(program),
            libc::EACCES
            | libc::ENOEXEC
            | libc::EPERM
            | libc::EISDIR
            | libc::ELIBBAD
            | libc::EINVAL
            | libc::ETXTBSY
            | libc::ELOOP
            | libc::ENAMETOOLONG => ExecFailure::NotExecutable(program),
            _ => ExecFailure::System(format!("{program}: {error}")),
        },
        Stage::Interpreter => ExecFailure::NotExecutable(program),
        Stage::Stdio => ExecFailure::System(format!("setting up the streams: {error}")),
        Stage::Limit => ExecFailure::System(format!("setting a resource limit: {error}")),
        Stage::Identity => {
            let user = request.user.as_deref().unwrap_or("root");
            ExecFailure::System(format!("becoming the user {user}: {error}"))
        }
    }
}

/// The user to become; none when that is who the agent is and cannot help being (local mode).
fn identity(request: &ExecRequest) -> Result<Option<Identity>, ExecFailure> {
    // SAFETY: geteuid(2) cannot fail.
    let own = unsafe { libc::geteuid() };
    let unknown = |user: &str| ExecFailure::UnknownUser(user.to_owned());
    match request.user.as_deref().filter(|user| !user.is_empty()) {
        None if own != 0 => Ok(None),
        None => lookup("0").map(Some).ok_or_else(|| unknown("root")),
        Some(user) => {
            let identity = lookup(user).ok_or_else(|| unknown(user))?;
            Ok(Some(identity).filter(|identity| own == 0 || identity.uid != own))
        }
    }
}

fn environment(
    request: &ExecRequest,
    identity: Option<&Identity>,
    scripts: Option<&str>,
) -> BTreeMap<String, String> {
    let mut env = request.env.clone();
    let mut add = |name: &str, value: &str| {
        env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    };
    add("PATH", DEFAULT_PATH);
    add("HOME", identity.map_or("/", |identity| &identity.home));
    if let Some(name) = identity.and_then(|identity| identity.name.as_deref()) {
        add("USER", name);
    }
    if let Some(tty) = &request.tty {
        add("TERM", if tty.term.is_empty() { DEFAULT_TERM } else { &tty.term });
    }
    if let (Some(dir), Some(path)) = (scripts, env.get_mut("PATH")) {
        *path = format!("{dir}:{path}");
    }
    env
}

/// Where a program may be: itself when it has a `/`, else in each directory of `path`, an empty one
/// being the working directory.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let joined = |dir: &str| match dir {
        "" => format!("./{program}"),
        dir => format!("{dir}/{program}"),
    };
    path.split(':').map(joined).collect()
}

/// Each directory on the way to `path`, and `path`.
fn prefixes(path: &str) -> Vec<String> {
    let ends = path.match_indices('/').map(|(index, _)| index).skip(1).chain([path.len()]);
    ends.filter(|end| *end > 1).map(|end| path[..end].to_owned()).collect()
}

fn limit(limit: &Rlimit) -> Result<(u32, libc::rlimit), ExecFailure> {
    let resource = match limit.name.as_str() {
        "as" => libc::RLIMIT_AS,
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        name => return Err(ExecFailure::Invalid(format!("{name}: unknown resource limit"))),
    };
    let soft = limit.soft.unwrap_or(libc::RLIM_INFINITY);
    let hard = limit.hard.unwrap_or(libc::RLIM_INFINITY);
    Ok((resource, libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard }))
}

fn c_strings(strings: impl IntoIterator<Item = String>) -> Result<Vec<CString>, ExecFailure> {
    strings.into_iter().map(c_string).collect()
}

fn c_string(string: String) -> Result<CString, ExecFailure> {
    CString::new(string)
        .map_err(|_| ExecFailure::Invalid("a NUL byte in the command or its environment".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_up_in_path_unless_it_has_a_slash() {
        assert_eq!(candidates("ls", "/a::/b"), ["/a/ls", "./ls", "/b/ls"]);
        assert_eq!(candidates("./ls", "/a"), ["./ls"]);
        assert_eq!(candidates("/bin/ls", "/a"), ["/bin/ls"]);
    }

    #[test]
    fn directories_are_made_parents_first() {
        assert_eq!(prefixes("/a/b/c"), ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(prefixes("/"), Vec::<String>::new());
    }

    #[test]
    fn refuses_requests_that_make_no_sense() {
        let request = |argv: &[&str]| ExecRequest {
            argv: argv.iter().map(ToString::to_string).collect(),
            ..ExecRequest::default()
        };
        let invalid =
            |request: &ExecRequest| matches!(prepare(request, None), Err(ExecFailure::Invalid(_)));
        assert!(invalid(&request(&[])));
        assert!(invalid(&request(&[""])));
        assert!(invalid(&request(&["a\0b"])));
        let mut unknown_limit = request(&["a"]);
        unknown_limit.rlimits.push(Rlimit { name: "x".into(), soft: None, hard: None });
        assert!(invalid(&unknown_limit));
        let mut relative = request(&["a"]);
        relative.cwd = Some("b".into());
        assert!(matches!(prepare(&relative, None), Err(ExecFailure::BadWorkdir(_))));
    }
}
