//! One daemon in this process: `forebay master|worker|fuse|node|keeper`. Each prints `ready …` when it serves.

use crate::{
    failure::Failure,
    process::{begin, say_ready},
    signal::StopSignals,
};
use forebay_fuse::{
    FuseHost, NodeHost,
    config::{FuseConfig, NodeConfig},
    keeper::{self, KeeperConfig},
};
use forebay_master::{Master, config::MasterConfig};
use forebay_service::{Shutdown, config, http};
use forebay_worker::{Worker, config::WorkerConfig};
use prometheus_client::registry::Registry;
use std::{net::SocketAddr, path::Path, sync::Arc};

/// `forebay master --config FILE`.
pub(crate) async fn master(file: &Path) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    let mut registry = begin();
    let shutdown = Shutdown::new();
    let config: MasterConfig = config::load(Some(file))?;
    let master = match Master::start(config, &mut registry, &shutdown).await {
        Ok(master) => master,
        Err(error) => {
            shutdown.finish().await;
            return Err(error.into());
        }
    };
    say_ready(&master.address().to_string());
    let asked = stop.wait_or(&shutdown).await;
    master.step_down().await;
    shutdown.finish().await;
    master.close().await;
    asked
}

/// `forebay worker --config FILE`.
pub(crate) async fn worker(file: &Path) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    let mut registry = begin();
    let shutdown = Shutdown::new();
    let config: WorkerConfig = config::load(Some(file))?;
    let worker = match Worker::start(config, &mut registry, &shutdown).await {
        Ok(worker) => worker,
        Err(error) => {
            shutdown.finish().await;
            return Err(error.into());
        }
    };
    say_ready(&worker.address().to_string());
    let asked = stop.wait_or(&shutdown).await;
    shutdown.finish().await;
    asked
}

/// `forebay fuse --config FILE`.
pub(crate) async fn fuse(file: &Path) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    let mut registry = begin();
    let shutdown = Shutdown::new();
    let config: FuseConfig = config::load(Some(file))?;
    let listen = config.http;
    let host = FuseHost::start(config, None, &mut registry, &shutdown).await?;
    serve_http(listen, registry, &shutdown).await?;
    say_ready(&host.mount_point().display().to_string());
    tokio::select! {
        () = stop.wait() => {}
        () = host.ended() => tracing::info!("unmounted from outside"),
    }
    host.unmount().await?;
    shutdown.finish().await;
    Ok(())
}

/// `forebay node --config FILE`.
pub(crate) async fn node(file: &Path) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    let mut registry = begin();
    let shutdown = Shutdown::new();
    let config: NodeConfig = config::load(Some(file))?;
    let host = NodeHost::start(&config, &mut registry, &shutdown).await?;
    serve_http(config.http, registry, &shutdown).await?;
    say_ready(&config.socket.display().to_string());
    stop.wait().await;
    if host.outlives_process() {
        // Whatever ended in order would answer what readers still wait for, with an error: that is the successor's to answer.
        std::process::exit(0);
    }
    host.close().await;
    shutdown.finish().await;
    Ok(())
}

/// `forebay keeper --config FILE`.
pub(crate) async fn keeper(file: &Path) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    begin();
    let shutdown = Shutdown::new();
    let config: KeeperConfig = config::load(Some(file))?;
    let socket = config.socket.display();
    keeper::start(&config, &shutdown)
        .map_err(|error| Failure::run(format!("cannot listen on {socket}: {error}")))?;
    say_ready(&socket.to_string());
    stop.wait().await;
    shutdown.finish().await;
    Ok(())
}

/// Serves metrics and health of a FUSE host, where that is wanted.
async fn serve_http(
    listen: Option<SocketAddr>,
    registry: Registry,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let Some(listen) = listen else { return Ok(()) };
    let serving = shutdown.clone();
    let readiness: http::Readiness =
        Arc::new(move || serving.has_begun().then(|| "stopping".to_owned()));
    http::serve(listen, Arc::new(registry), readiness, shutdown).await?;
    Ok(())
}
