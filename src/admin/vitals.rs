//! Metrics of the process itself.

use std::io;
use std::sync::Arc;

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::Tally;
use crate::lifecycle::{Lifecycle, Phase};

/// Makes the text of all metrics that there are so far.
///
/// # Errors
/// Two of them have the same name.
pub(crate) fn vitals(lifecycle: &Arc<Lifecycle>, tally: &Tally) -> io::Result<Arc<dyn Fn() -> String + Send + Sync>> {
    let (registry, ready, draining) = registered(tally).map_err(io::Error::other)?;
    let lifecycle = Arc::clone(lifecycle);
    Ok(Arc::new(move || {
        let phase = lifecycle.phase();
        ready.set((phase == Phase::Serving).into());
        draining.set((phase == Phase::Draining).into());
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default()
    }))
}

fn registered(tally: &Tally) -> prometheus::Result<(Registry, IntGauge, IntGauge)> {
    let registry = Registry::new();
    let ready = IntGauge::new("outrigger_ready", "1 while clients are served")?;
    let draining = IntGauge::new("outrigger_draining", "1 while the process finishes what it has begun")?;
    let build =
        IntGaugeVec::new(Opts::new("outrigger_build_info", "Always 1; the labels say what runs"), &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(ready.clone()))?;
    registry.register(Box::new(draining.clone()))?;
    registry.register(Box::new(build))?;
    registry.register(Box::new(tally.clone()))?;
    Ok((registry, ready, draining))
}
