//! Host paths as text: no file is looked at.

/// `path` seen from the absolute directory `dir`, absolute and without `.` and `..`.
pub(crate) fn absolute(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { dir };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) => "/",
        Some(slash) => &path[..slash],
        None => "",
    }
}

/// `path`, as stated in the file known as `stated_in`, as the user would name it.
pub(crate) fn display(stated_in: &str, path: &str) -> String {
    let dir = parent(stated_in);
    if path.starts_with('/') || dir.is_empty() || stated_in.starts_with('<') {
        return path.to_owned();
    }
    let path = path.trim_start_matches("./");
    if dir == "/" { format!("/{path}") } else { format!("{dir}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_and_normalises() {
        assert_eq!(absolute("/a/b", "./c/../d"), "/a/b/d");
        assert_eq!(absolute("/a", "../../x"), "/x");
        assert_eq!(absolute("/a", "/x/"), "/x");
        assert_eq!(absolute("/", "."), "/");
        assert_eq!(display("sub/Sandboxfile", "./x.env"), "sub/x.env");
        assert_eq!(display("Sandboxfile", "x.env"), "x.env");
        assert_eq!(display("/p/Sandboxfile", "infra/f"), "/p/infra/f");
    }
}
