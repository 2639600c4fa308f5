//! Health checks. The `local` driver's guest has this machine's loopback.

use tokio::net::TcpListener;

use super::*;

fn checked(probe: Probe) -> SandboxSpec {
    let check = HealthCheck {
        probe,
        interval: Millis::from_ms(20),
        timeout: Millis::from_secs(20),
        retries: 1,
        start_period: Millis::from_ms(0),
    };
    SandboxSpec { healthcheck: Some(check), ..idle() }
}

/// The first verdict other than `starting`, and what the probe said.
async fn verdict(up: &Up, wanted: Health) -> Option<String> {
    let event = up.until(|event| event.health == Some(wanted)).await;
    assert_eq!(event.health, Some(wanted), "{event:?}");
    event.probe_output
}

#[tokio::test]
async fn a_port_that_accepts_is_healthy() {
    let bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let up = bench.up(checked(Probe::Tcp(address.port().to_string()))).await;
    verdict(&up, Health::Healthy).await;
    drop(listener);
    let output = verdict(&up, Health::Unhealthy).await.unwrap();
    assert!(output.contains("refused"), "{output}");
    let store = Store::open(&bench.home).unwrap();
    let events = store.events_since(Some("shop"), 0, 1000).unwrap();
    let failed = events.iter().find(|event| event.kind == "unhealthy").unwrap();
    assert!(failed.detail.as_ref().unwrap().contains("refused"), "{failed:?}");
}

#[tokio::test]
async fn the_status_of_an_answer_counts() {
    let bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let up = bench.up(checked(Probe::Http(format!("http://{address}/health?a=b")))).await;
    for (status, health) in [
        ("200 OK", Health::Healthy),
        ("503 Busy", Health::Unhealthy),
        ("302 Found", Health::Healthy),
        ("404 Not Found", Health::Unhealthy),
    ] {
        let answer = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let text = String::from_utf8(request).unwrap();
                let head = format!("GET /health?a=b HTTP/1.1\r\nHost: {address}\r\n");
                assert!(text.starts_with(&head), "{text}");
                // No more than the status line is waited for.
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nX:").as_bytes()).await;
            }
        };
        tokio::select! {
            () = answer => {}
            output = verdict(&up, health) => {
                let code = status.split(' ').next().unwrap();
                assert_eq!(output.unwrap(), format!("HTTP status {code}"));
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_failure() {
    let bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut spec = checked(Probe::Http(format!("http://{address}/")));
    spec.healthcheck.as_mut().unwrap().timeout = Millis::from_ms(50);
    let up = bench.up(spec).await;
    let silent = listener.accept();
    let output = verdict(&up, Health::Unhealthy).await.unwrap();
    assert!(output.contains("timed out") || output.contains("too long"), "{output}");
    drop(silent);
}

#[tokio::test]
async fn what_a_sandbox_uses_is_measured_when_somebody_asks() {
    let bench = bench();
    let up = bench.up(sh("echo up; while :; do :; done")).await;
    up.said("up").await;
    let mut sampler = msb::client::MetricsSampler::new(&up.home, &up.config.id);
    let first = within(sampler.sample()).await.unwrap();
    assert!(first.cpu_percent.abs() < f64::EPSILON, "{first:?}");
    let event = within(up.client.status()).await.unwrap();
    assert!(event.vm_pid.is_some());
    assert!(first.host_memory_bytes > 0 && first.uptime_ms > 0, "{first:?}");
    assert!((1..=up.config.spec.memory.bytes()).contains(&first.memory_bytes), "{first:?}");
    assert_eq!(first.memory_limit_bytes, up.config.spec.memory.bytes());
    let second = within(msb::client::metrics(&up.home, &up.config.id)).await.unwrap();
    assert!(second.timestamp_ms >= first.timestamp_ms && second.uptime_ms > first.uptime_ms);
    // Of one processor: the local driver's guest has all of this machine's, and uses one at least.
    assert!((0.1..=100.0).contains(&second.cpu_percent), "{second:?}");
    let all = within(msb::client::all_sandbox_metrics(&up.home)).await.unwrap();
    assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["web"]);
    // Not killed: the loop would outlive an agent that is an ordinary process.
    within(up.client.stop(Some(0))).await.unwrap();
    up.ended().await;
    let gone = within(sampler.sample()).await;
    assert!(matches!(gone, Err(ControlError::NotRunning)), "{gone:?}");
}
