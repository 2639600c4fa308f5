//! Tests of `load` as a whole: what is merged into what, and what the environment does.

use std::collections::BTreeMap;
use std::io;

use super::*;
use crate::spec::{Name, Project, SandboxSpec};

/// Files and variables in memory.
#[derive(Default)]
pub(super) struct Fake {
    files: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
}

impl Loader for Fake {
    fn load(&self, path: &str) -> io::Result<Option<String>> {
        match self.files.get(path) {
            Some(text) if text == "<error>" => Err(io::ErrorKind::PermissionDenied.into()),
            found => Ok(found.cloned()),
        }
    }
}

impl Fake {
    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self, texts: &[&str]) -> Parsed {
        let names = ["Sandboxfile", "Sandboxfile.override.toml"];
        let files: Vec<_> = texts
            .iter()
            .zip(names)
            .map(|(text, name)| Source {
                path: name.to_owned(),
                dir: "/srv/shop".to_owned(),
                text: (*text).into(),
            })
            .collect();
        let env = |name: &str| self.env.get(name).cloned();
        let inputs =
            Inputs { files: &files, loader: self, env: &env, project_name: None, env_files: &[] };
        load(inputs)
    }

    fn project(&self, texts: &[&str]) -> Project {
        let parsed = self.load(texts);
        let messages: Vec<_> = parsed.diagnostics.iter().map(Diagnostic::message).collect();
        parsed.project.unwrap_or_else(|| panic!("{messages:#?}"))
    }

    fn messages(&self, texts: &[&str]) -> Vec<String> {
        let parsed = self.load(texts);
        let place = |d: &Diagnostic| d.origin().map_or(String::new(), |o| format!("{o}: "));
        parsed.diagnostics.iter().map(|d| format!("{}{d}", place(d))).collect()
    }
}

fn sandbox<'p>(project: &'p Project, name: &str) -> &'p SandboxSpec {
    &project.sandboxes[&Name::new(name).unwrap()]
}

#[test]
fn defaults_templates_and_sandbox_in_this_order() {
    let project = Fake::default().project(&[r#"
        [defaults]
        memory = "256MiB"
        env = { A = "defaults", B = "defaults", C = "defaults" }
        labels = { team = "x" }
        [templates.base]
        image = "base:1"
        env = { B = "base", C = "base" }
        patches = [{ remove = "/one" }]
        [templates.py]
        extends = "base"
        memory = "1GiB"
        env.C = "py"
        patches = [{ remove = "/two" }]
        ports = ["8000:80", "9000:90"]
        [sandbox.api]
        extends = "py"
        cmd = ["run"]
        ports = ["8000:81"]
        patches = [{ remove = "/three" }]
        unset = ["labels"]
        [sandbox.other]
        image = "other"
    "#]);
    let api = sandbox(&project, "api");
    let env: Vec<_> = api.env.values().map(String::as_str).collect();
    assert_eq!(env, ["defaults", "base", "py"]);
    assert_eq!(api.memory.mib(), 1024);
    assert_eq!(api.patches.len(), 3);
    assert!(api.labels.is_empty());
    let ports: Vec<_> = api.ports.iter().map(|p| format!("{}:{}", p.host, p.guest)).collect();
    assert_eq!(ports, ["8000:81", "9000:90"]);
    let other = sandbox(&project, "other");
    assert_eq!((other.memory.mib(), other.labels.len(), other.env.len()), (256, 1, 3));
}

#[test]
fn an_override_is_laid_over_the_file() {
    let main = r#"
        [sandbox.api]
        image = "a:1"
        depends_on = ["db"]
        volumes."/data" = { named = "data", readonly = true }
        healthcheck = { exec = ["x"], interval = "9s" }
        env = { A = "1", B = "1" }
        network = { policy = "none" }
        [sandbox.db]
        image = "db"
        kind = "job"
        [volume.data]
    "#;
    let over = r#"
        [sandbox.api]
        image = "a:2"
        depends_on = { db = "completed" }
        volumes."/data" = { bind = "./data" }
        healthcheck = { shell = "y" }
        unset = ["env.A"]
        network.rules = [{ action = "deny", destination = "*" }]
        [sandbox.extra]
        image = "e"
    "#;
    let project = Fake::default().project(&[main, over]);
    let api = sandbox(&project, "api");
    expect_test::expect![[r#"
        {
          "image": {
            "oci": "a:2"
          },
          "kind": "service",
          "pull_policy": "if-missing",
          "memory": "512MiB",
          "cpus": 1,
          "env": {
            "B": "1"
          },
          "volumes": {
            "/data": {
              "bind": {
                "path": "/srv/shop/data",
                "create": false
              },
              "readonly": true
            }
          },
          "healthcheck": {
            "shell": "y",
            "interval": "9s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "0s"
          },
          "restart": "no",
          "stop_grace_period": "10s",
          "disk": "8GiB",
          "log_level": "info",
          "depends_on": {
            "db": {
              "condition": "completed",
              "required": true,
              "restart": false
            }
          },
          "replicas": 1,
          "network": {
            "rules": [
              {
                "action": "deny",
                "destination": "*",
                "direction": "outbound"
              }
            ]
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(api).unwrap());
    assert!(project.sandboxes.len() == 3);
}

#[test]
fn includes_have_their_own_names_paths_and_defaults() {
    let fake = Fake::default()
        .file(
            "/srv/shop/infra/Sandboxfile",
            r#"
            name = "ignored"
            env_file = "vars.env"
            [defaults]
            memory = "2GiB"
            [sandbox.db]
            image = "./image"
            depends_on = ["init"]
            env.V = "$V"
            volumes."/d" = { named = "data" }
            [sandbox.init]
            image = "i"
            [volume.data]
            [[include]]
            path = "deep/Sandboxfile"
            as = "deep"
            "#,
        )
        .file("/srv/shop/infra/vars.env", "V=infra\n")
        .file("/srv/shop/infra/deep/Sandboxfile", "[sandbox.x]\nimage = \"$V\"\n");
    let project = fake.project(&[r#"
        name = "shop"
        [sandbox.api]
        image = "a"
        depends_on = ["infra/db", "infra/deep/x"]
        [[include]]
        path = "infra/Sandboxfile"
        as = "infra"
    "#]);
    assert_eq!(project.name.as_str(), "shop");
    let names: Vec<_> = project.sandboxes.keys().map(Name::as_str).collect();
    assert_eq!(names, ["api", "infra/db", "infra/deep/x", "infra/init"]);
    let db = sandbox(&project, "infra/db");
    assert_eq!(db.image.source.to_string(), "/srv/shop/infra/image");
    assert_eq!(db.memory.mib(), 2048);
    assert_eq!(db.env["V"], "infra");
    assert_eq!(db.depends_on.keys().next().map(Name::as_str), Some("infra/init"));
    assert_eq!(sandbox(&project, "infra/deep/x").image.source.to_string(), "infra");
    assert_eq!(sandbox(&project, "api").memory.mib(), 512);
}

#[test]
fn variables_come_from_the_process_then_from_later_files() {
    let fake = Fake::default()
        .file("/srv/shop/.env", "A=file\nB=file\nC=file\n")
        .file("/srv/shop/local.env", "B=local\n")
        .env("C", "process");
    let text = r#"
        env_file = [".env", { path = "${MISSING:-local.env}" }, { path = "no", required = false }]
        [sandbox.a]
        image = "i"
        cpus = "${CPUS:-3}"
        env = { A = "$A", B = "$B", C = "$C", L = '$A', D = "${NO:-}", E = "$$A" }
    "#;
    let parsed = fake.load(&[text]);
    let project = parsed.project.unwrap();
    let a = sandbox(&project, "a");
    let env: Vec<_> = a.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=file", "B=local", "C=process", "D=", "E=$A", "L=$A"]);
    assert_eq!(a.cpus, 3);
    assert_eq!(parsed.inputs, ["/srv/shop/.env", "/srv/shop/local.env", "/srv/shop/no"]);
    let looked_up: Vec<_> = parsed.variables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(looked_up, ["A", "B", "C", "CPUS", "MISSING", "NO"]);
}

#[test]
fn env_files_of_sandboxes_lie_under_env_and_have_origins() {
    let fake = Fake::default().file("/srv/shop/db.env", "A=1\n\n  B=2\n");
    let text = "[sandbox.db]\nimage = \"i\"\nenv_file = \"db.env\"\nenv = { B = \"own\" }\n";
    let parsed = fake.load(&[text]);
    let project = parsed.project.unwrap();
    assert_eq!(sandbox(&project, "db").env["A"], "1");
    assert_eq!(sandbox(&project, "db").env["B"], "own");
    let at = |path: &str| parsed.origins.get(path).map(|o| o.to_string());
    assert_eq!(at("sandbox.db.env.A").as_deref(), Some("db.env:1:1"));
    assert_eq!(at("sandbox.db.env.B").as_deref(), Some("Sandboxfile:4:9"));
    assert_eq!(at("sandbox.db.memory").as_deref(), Some("Sandboxfile:1:10"));
    assert_eq!(at("sandbox.db.image").as_deref(), Some("Sandboxfile:2:1"));
}

#[test]
fn values_of_variables_stay_out_of_messages() {
    let secret = "hunter2";
    let fake = Fake::default().env("S", secret);
    let messages = fake.load(&[r#"
        [sandbox.a]
        image = "UPPER $S"
        memory = "$S"
        cpus = "$S"
        kind = "$S"
        workdir = "$S"
        depends_on = ["$S"]
        network = "$S"
        extends = "$S"
        secrets = ["$S"]
        volumes."/x" = { named = "$S" }
        env_file = "$S"
        ports = ["$S"]
        [[include]]
        path = "$S"
    "#]);
    assert!(messages.project.is_none());
    assert!(messages.diagnostics.len() >= 12, "{:#?}", messages.diagnostics);
    for diagnostic in messages.diagnostics {
        let report = format!("{:?}", miette::Report::new(diagnostic));
        assert!(!report.contains(secret), "{report}");
    }
}

#[test]
fn include_cycles_and_missing_files_end() {
    let fake = Fake::default()
        .file("/srv/shop/b", "[[include]]\npath = \"Sandboxfile\"\n")
        .file("/srv/shop/c", "<error>");
    let messages = fake.messages(&[
        "[[include]]\npath = \"b\"\n[[include]]\npath = \"no\"\n[[include]]\npath = \"c\"\n",
    ]);
    expect_test::expect![[r#"
        [
            "Sandboxfile:4:8: the included file `no` does not exist",
            "Sandboxfile:6:8: the included file `c` cannot be read: permission denied",
            "b:2:8: the file includes itself",
        ]
    "#]]
    .assert_debug_eq(&messages);
}

#[test]
fn default_names_tell_checkouts_apart() {
    let project = Fake::default().project(&[""]);
    assert!(project.name.as_str().starts_with("shop-"), "{}", project.name);
    assert_eq!(project.name.as_str().len(), "shop-".len() + 6);
}

#[test]
fn a_syntax_error_does_not_drown_the_rest() {
    let messages = Fake::default().messages(&[r#"
[sandbox.a]
image = "i"
cpus = = 2
memory = 5
[sandbox.b
image = "x"
"#]);
    expect_test::expect![[r#"
        [
            "Sandboxfile:4:8: invalid TOML: extra `=`, expected nothing",
            "Sandboxfile:5:10: `memory` must be a size such as `\"512MiB\"`, not an integer",
            "Sandboxfile:6:11: invalid TOML: unclosed table, expected `]`",
        ]
    "#]]
    .assert_debug_eq(&messages);
}

mod properties {
    use proptest::prelude::*;

    use super::Fake;

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            Fake::default().load(&[&text]);
        }

        #[test]
        fn no_likely_text_panics(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "[sandbox.a]", "[templates.t]", "[defaults]", "[[include]]", "[secret.s]", "\n",
                    "[volume.v]", "image", "=", "\"i\"", "env", "{", "}", "[", "]", ",", "depends_on",
                    "\"a\"", "extends", "\"t\"", "unset", "ports", "\"80:80\"", "network", "1", "true",
                    "volumes", ".", "\"/x\"", "bind", "named", "'''", "\"${A:-\"", "path", "memory",
                    "\"1GiB\"", "#", "rules", "healthcheck", "ü", "\u{feff}", "1979-05-27",
                ]),
                0..60,
            )
        ) {
            let text = words.join(" ");
            Fake::default().load(&[&text, &text]);
        }
    }
}

#[test]
fn scripts_that_do_not_fit_are_refused_at_their_line() {
    let file = |lengths: [usize; 3]| {
        let [a, b, c] = lengths.map(|length| "x".repeat(length));
        format!(
            "[sandbox.a]\nimage = \"x\"\nscripts.a = \"{a}\"\nscripts.c = \"{c}\"\nscripts.b = \"{b}\"\n"
        )
    };
    let most = 512 << 10;
    assert_eq!(Fake::default().messages(&[&file([most / 2, most / 4, 1])]), [""; 0]);
    assert_eq!(
        Fake::default().messages(&[&file([most / 2, most / 4, most / 4])]),
        ["Sandboxfile:4:9: the scripts of a sandbox hold at most 512 KiB together"]
    );
}
