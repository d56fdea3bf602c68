//! What the chart's ingress passes on, and what the server answers.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use muster_bus::LocalBus;
use muster_server::compose::{App, router};
use muster_server::gauges::Gauges;
use muster_server::observe::{Metrics, Observer};
use muster_server::pages::Pages;
use muster_server::services::Services;
use muster_server::start::{Ambient, open_database};
use tokio_util::sync::CancellationToken;

/// Every path that the server routes, with its parameters as the router writes them.
async fn routed() -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let settings = crate::settings(folder.path(), &[]);
    let ambient = Ambient::default();
    let database = open_database(&settings).await.unwrap();
    let (bus, url) = (Arc::new(LocalBus::new()), "https://localhost");
    let services = Services::new(
        &settings,
        url,
        None,
        "",
        database.clone(),
        bus.clone(),
        &ambient,
    );
    let services = services.unwrap();
    let app = App {
        pages: Arc::new(Pages {
            database,
            bus,
            metrics: Metrics::begin(),
            gauges: Gauges::new(&settings, services.clone(), None),
            metrics_access: settings.metrics_access,
            fleet_version: settings.fleet_version.clone(),
            public_url: url.to_owned(),
            settings: services.settings.clone(),
            tls: None,
            started_at: ambient.clock.now(),
        }),
        setup_call_access: settings.setup_call_access,
        live_query_rest_period: settings.live_query_rest_period,
        observer: Observer::new(&*ambient.randomness),
        stopping: CancellationToken::new(),
        services: services.clone(),
    };
    // The router gives its paths to nobody but those who debug it.
    let described = format!("{:?}", router(&app));
    services.close().await;
    let quoted = described.split('"').skip(1).step_by(2);
    quoted
        .filter(|text| text.starts_with('/') && !text.contains("__private__"))
        .map(str::to_owned)
        .collect()
}

/// The prefixes that the ingress passes on.
fn passed_on() -> Vec<String> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/helm/muster/templates/ingress.yaml"
    );
    let text = fs::read_to_string(file).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("range list"))
        .unwrap();
    let quoted = line.split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_charts_ingress_passes_on_every_path_of_the_server_but_metrics() {
    let (routed, prefixes) = (routed().await, passed_on());
    for known in ["/", "/v1/opamp", "/api/osquery/enroll", "/metrics"] {
        assert!(routed.contains(known), "{routed:?}");
    }
    let is_under = |path: &str, prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let left_out: Vec<&String> = routed
        .iter()
        // By itself, as the whole path.
        .filter(|path| *path != "/")
        .filter(|path| !prefixes.iter().any(|prefix| is_under(path, prefix)))
        .collect();
    assert_eq!(left_out, ["/metrics"]);
    for prefix in &prefixes {
        assert!(
            routed.iter().any(|path| is_under(path, prefix)),
            "{prefix} leads nowhere"
        );
    }
}
