//! Commands that need no sandbox, misuse, and files that are wrong.

use expect_test::expect;

use crate::environment::Environment;

#[test]
fn version_is_data() {
    let env = Environment::new();
    assert_eq!(env.msb("version").expect(0).stdout, env.msb("--version").expect(0).stdout);
    let ran = env.msb("version --format json").expect(0);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["schema"], "msb.version/1");
}

#[test]
fn misuse_is_64() {
    let env = Environment::new();
    env.msb("").expect(64);
    env.msb("no-such-command").expect(64);
    env.msb("up --wait-timeout 10").expect(64);
    env.msb("exec web").expect(64);
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./image\"\n");
    env.msb("up -d --driver nonsense").expect(64);
    let ran = env.msb("logs --since yesterday").expect(64);
    assert!(ran.stderr.contains("`yesterday` is neither a time nor a duration"), "{}", ran.stderr);
}

#[test]
fn a_missing_file_says_what_to_do() {
    let env = Environment::new();
    let ran = env.msb("plan").expect(3);
    expect![[r#"
        error: there is no Sandboxfile in $TEST/p or above it
        hint: `msb init` writes one; `-f FILE` names another
    "#]]
    .assert_eq(&ran.stderr);
    env.msb("plan -f nothing-here").expect(3);
}

#[test]
fn init_writes_a_file_that_is_valid() {
    let env = Environment::new();
    env.msb("init --image ./image").expect(0);
    env.msb("config").expect(0);
    env.msb("init").expect(1);
    env.msb("init --force").expect(0);
}

#[test]
fn a_wrong_file_is_3_and_all_errors_are_shown() {
    let env = Environment::new();
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./image\"\ncpus = 0\nmemroy = \"1GiB\"\n");
    for command in ["up -d", "plan", "config", "up --dry-run"] {
        let ran = env.msb(command).expect(3);
        assert!(ran.stderr.contains("memroy"), "{}", ran.stderr);
        assert!(ran.stderr.contains("cpus"), "{}", ran.stderr);
        assert!(ran.stderr.contains("2 errors in the Sandboxfile"), "{}", ran.stderr);
    }
    assert!(env.rows().is_empty());
}

#[test]
fn what_is_not_carried_out_is_refused_before_anything_is_done() {
    let env = Environment::new();
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./image\"\nports = [\"8080:80\"]\n");
    let ran = env.msb("up -d").expect(3);
    assert!(ran.stderr.contains("ports"), "{}", ran.stderr);
    assert!(ran.stderr.contains("Sandboxfile:3"), "{}", ran.stderr);
    assert!(!env.home().database().exists());
    env.msb("plan").expect(0);
}

#[test]
fn a_file_from_standard_input() {
    let env = Environment::new();
    let input = env.project().join("input");
    std::fs::write(&input, "name = \"piped\"\n[sandbox.web]\nimage = \"./image\"\n").unwrap();
    let mut command = env.command();
    command.args(["-f", "-", "config"]).stdin(std::fs::File::open(&input).unwrap());
    let ran = env.run(&mut command).expect(0);
    assert!(ran.stdout.contains("piped"), "{}", ran.stdout);
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let env = Environment::new();
    let mut command = env.command();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = env.run_with_stdout(command.args(["completion", "bash"]), writer.into());
    assert_eq!(ran.code, 141);
    assert_eq!(ran.stderr, "");
}

#[test]
fn keys_are_explained() {
    let env = Environment::new();
    let text = env.msb("config --explain healthcheck.interval").expect(0).stdout;
    assert!(text.starts_with("sandbox.*.healthcheck.interval\n"), "{text}");
    let table = env.msb("config --explain sandbox").expect(0).stdout;
    assert!(table.contains("image, kind, pull_policy, memory"), "{table}");
    let wrong = env.msb("config --explain sandbox.web.memroy").expect(1);
    expect![[r#"
        error: the Sandboxfile has no key `sandbox.web.memroy`
        hint: did you mean `memory`?
    "#]]
    .assert_eq(&wrong.stderr);
}

#[test]
fn an_image_that_is_not_there_says_what_a_path_is() {
    let env = Environment::new();
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./imgae\"\n");
    let hint = "hint: relative paths start at the directory of the Sandboxfile; \
                write `image = \"name:tag\"` for an image of a registry\n";
    let ran = env.msb("up -d").expect(1);
    let found = "error: image $TEST/p/imgae: there is no such file or directory\n";
    assert_eq!(ran.stderr, format!("{found}{hint}"));
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./imgae.tar\"\n");
    let ran = env.msb("up -d").expect(1);
    let found = "error: image $TEST/p/imgae.tar: there is no such file or directory\n";
    assert_eq!(ran.stderr, format!("{found}{hint}"));
}

#[test]
fn what_is_not_carried_out_is_planned() {
    let env = Environment::new();
    env.write("Sandboxfile", "name = \"p\"\n[sandbox.web]\nimage = \"./web\"\nports = [\"1:1\"]\n");
    env.msb("plan --detailed-exitcode").expect(2);
    let ran = env.msb("up -d").expect(3);
    assert!(ran.stderr.contains("`ports` of the sandbox `web`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("[Sandboxfile:4:1]"), "{}", ran.stderr);
}

#[test]
fn a_profile_that_no_sandbox_has_is_said() {
    let env = Environment::new();
    env.write("Sandboxfile", "name = \"p\"\n[sandbox.web]\nimage = \"./image\"\n");
    let ran = env.msb("plan --profile dve").expect(0);
    assert_eq!(ran.stderr, "warning: no sandbox has the profile `dve`\n");
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let env = Environment::new();
    env.write(
        "Sandboxfile",
        "name = \"p\"\n[sandbox.web]\nimage = \"./image\"\nkind = \"job\"\ncmd = [\"/nope\"]\n",
    );
    let ran = env.msb("up -d --wait").expect(1);
    let message = "error: sandbox `web` ended with exit code 127: the workload could not be started: \
                   /nope: command not found";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}
