//! Named scripts, from the specification of a sandbox to its guest.

use super::*;

fn with(scripts: &[(&str, &str)], spec: SandboxSpec) -> SandboxSpec {
    let scripts = scripts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    SandboxSpec { scripts: scripts.collect(), ..spec }
}

#[tokio::test]
async fn everything_that_runs_finds_them() {
    let bench = bench();
    let marks = bench._dir.path().join("marks");
    let mark = format!("echo $1 >> {}; echo said $1", marks.display());
    let mut spec = with(&[("mark", &mark)], sh("mark workload; sleep 1000"));
    spec.hooks.post_start = vec![vec!["mark".into(), "hook".into()]];
    spec.healthcheck = Some(HealthCheck {
        probe: Probe::Shell("mark probe".into()),
        interval: Millis::from_secs(1000),
        timeout: Millis::from_secs(60),
        retries: 1,
        start_period: Millis::from_ms(0),
    });
    let up = bench.up(spec).await;
    up.until(|event| event.health == Some(Health::Healthy)).await;
    up.said("said workload").await;
    assert_eq!(up.run("mark exec").await, (ExitStatus::Code(0), "said exec\n".to_owned()));
    let text = fs::read_to_string(&marks).unwrap();
    let mut words: Vec<&str> = text.lines().collect();
    words.sort_unstable();
    assert_eq!(words, ["exec", "hook", "probe", "workload"]);
}

#[tokio::test]
async fn an_edit_brings_others_to_a_sandbox_that_runs() {
    let bench = bench();
    let spec = sh("sleep 1000");
    let up = bench.up(spec.clone()).await;
    let run = up.running().await.run_id;
    for (script, says) in [("echo one", "one\n"), ("#!/bin/sh\necho two", "two\n")] {
        within(up.client.update(with(&[("say", script)], spec.clone()))).await.unwrap();
        assert_eq!(up.run("say").await.1, says);
    }
    within(up.client.update(spec.clone())).await.unwrap();
    assert_eq!(up.run("say").await.0, ExitStatus::Code(127));
    // What the agent cannot write is not taken for done.
    for _ in 0..2 {
        let denied = up.client.update(with(&[("a/b", "")], spec.clone())).await;
        let invalid = matches!(denied, Err(ControlError::Denied(DeniedReason::Invalid(_))));
        assert!(invalid, "{denied:?}");
    }
    assert_eq!(up.running().await.run_id, run);
}
