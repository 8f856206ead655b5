//! `forebay-operator`: flags, logs, signals.

use clap::Parser;
use forebay_operator::{Operator, Settings};
use forebay_service::Shutdown;
use kube::{Client, Config};
use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};
use tokio::signal::unix::{SignalKind, signal};

/// Makes masters, workers and volumes of what the Kubernetes API says.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Image of masters and workers, where a CacheCluster names none.
    #[arg(long, env = "FOREBAY_OPERATOR_IMAGE")]
    image: String,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "FOREBAY_OPERATOR_HTTP", default_value = "0.0.0.0:7301")]
    http: SocketAddr,
    /// Where the API server is answered that asks which nodes a pod is to prefer; only if it has no MutatingAdmissionPolicies.
    #[arg(long, env = "FOREBAY_OPERATOR_WEBHOOK", default_value = "0.0.0.0:7302")]
    webhook: SocketAddr,
    /// Address of the pod that this process runs in, by which the API server reaches the webhook. Default: there is none.
    #[arg(long, env = "FOREBAY_OPERATOR_POD_IP")]
    pod_ip: Option<IpAddr>,
    /// Namespace of the Lease. Default: the one that the operator runs in.
    #[arg(long, env = "FOREBAY_OPERATOR_NAMESPACE")]
    namespace: Option<String>,
    /// Tells this process from other operators, such as the name of its pod.
    #[arg(long, env = "FOREBAY_OPERATOR_IDENTITY")]
    identity: String,
}

fn main() -> ExitCode {
    forebay_service::panic::install();
    let flags = Flags::parse();
    forebay_service::telemetry::init();
    forebay_service::limits::raise_open_files();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    match runtime.block_on(run(flags)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => failed(&why),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("forebay-operator: {why}");
    ExitCode::FAILURE
}

async fn run(flags: Flags) -> Result<bool, String> {
    // Fails only if somebody was faster, with the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let config = Config::infer().await.map_err(|e| e.to_string())?;
    let namespace = flags.namespace.unwrap_or(config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|e| e.to_string())?;
    let settings = Settings {
        image: flags.image,
        namespace,
        identity: flags.identity,
        http: flags.http,
        webhook: flags.webhook,
        pod_ip: flags.pod_ip,
        placements: Arc::default(),
        dial: Arc::new(|names, id| names.address(id).parse()),
    };
    let shutdown = Shutdown::new();
    let stopping = shutdown.clone();
    shutdown.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopping.begin();
    });
    let operator = Operator::start(client, settings, &shutdown).await;
    let operator = operator.map_err(|e| e.to_string())?;
    let kept = operator.run().await;
    shutdown.finish().await;
    Ok(kept)
}
