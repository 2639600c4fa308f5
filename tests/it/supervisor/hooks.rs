//! Commands around the life of a workload.

use msb::spec::Hooks;

use super::*;

fn hooks(post_start: &str, pre_stop: &str) -> Hooks {
    let commands = |script: &str| match script {
        "" => Vec::new(),
        script => vec![["/bin/sh", "-c", script].map(str::to_owned).to_vec()],
    };
    Hooks { post_start: commands(post_start), pre_stop: commands(pre_stop) }
}

#[tokio::test]
async fn hooks_run_in_their_order() {
    let bench = bench();
    let dir = bench._dir.path().display().to_string();
    // The hook after the start waits for the test, so that what holds meanwhile can be seen.
    nix::unistd::mkfifo(&bench._dir.path().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let post = format!("echo post >> {dir}/order; cat {dir}/go");
    let pre = format!("echo $LEVEL >> {dir}/order");
    let mut spec =
        sh(&format!("trap 'echo term >> {dir}/order; exit 0' TERM; echo up; sleep 1000 & wait"));
    spec.hooks = hooks(&post, &pre);
    spec.env.insert("LEVEL".into(), "pre".into());
    let up = bench.up(spec).await;
    up.said("up").await;
    let go = {
        let path = bench._dir.path().join("go");
        // Opens when the hook does.
        within(tokio::task::spawn_blocking(move || fs::File::create(path).unwrap())).await.unwrap()
    };
    let event = within(up.client.status()).await.unwrap();
    assert_eq!((event.status, event.started), (Status::Starting, false), "{event:?}");
    drop(go);
    assert!(up.running().await.started);
    within(up.client.stop(None)).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(0)), "{event:?}");
    let order = fs::read_to_string(bench._dir.path().join("order")).unwrap();
    assert_eq!(order, "post\npre\nterm\n");
}

#[tokio::test]
async fn a_hook_that_fails_after_the_start_is_a_failed_start() {
    let bench = bench();
    let mut spec = sh("sleep 1000");
    spec.hooks = hooks("echo no database >&2; exit 3", "");
    spec.restart = msb::spec::RestartPolicy::Always;
    let event = bench.up(spec).await.ended().await;
    assert_eq!((event.started, event.restarts), (false, 0), "{event:?}");
    assert_eq!(
        event.error.unwrap(),
        "the workload could not be started: post_start: `/bin/sh` failed (exit code 3): no database"
    );
}

#[tokio::test]
async fn a_hook_before_the_stop_has_no_more_than_the_grace_period() {
    let bench = bench();
    let mut spec = sh("echo up; exec sleep 1000");
    spec.hooks = hooks("", "sleep 1000");
    let up = bench.up(spec).await;
    up.said("up").await;
    up.running().await;
    within(up.client.stop(Some(100))).await.unwrap();
    let event = up.ended().await;
    assert_eq!((event.status, event.exit_code), (Status::Stopped, Some(137)), "{event:?}");
}
