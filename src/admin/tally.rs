//! What was asked at the HTTP port, counted.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// Counters of the HTTP port.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// None only if the names were no names, which a test excludes.
    counters: Option<Counters>,
}

#[derive(Debug, Clone)]
struct Counters {
    answers: IntCounterVec,
    refused_tokens: IntCounter,
}

impl Default for Tally {
    fn default() -> Self {
        Self { counters: Counters::new().ok() }
    }
}

impl Counters {
    fn new() -> prometheus::Result<Self> {
        let answers = Opts::new("outrigger_http_requests_total", "Requests to the HTTP port that were answered");
        Ok(Self {
            answers: IntCounterVec::new(answers, &["path", "code"])?,
            refused_tokens: IntCounter::new(
                "outrigger_http_refused_tokens_total",
                "Requests to the HTTP port with a wrong admin token, or without one where it is needed",
            )?,
        })
    }
}

impl Tally {
    /// A request was answered. `path` is one of a fixed set.
    pub(super) fn answered(&self, path: &'static str, code: u16) {
        if let Some(counters) = &self.counters {
            counters.answers.with_label_values(&[path, code.to_string().as_str()]).inc();
        }
    }

    /// A token was wrong, or missing.
    pub(super) fn refused_token(&self) {
        self.counters.iter().for_each(|counters| counters.refused_tokens.inc());
    }
}

impl Collector for Tally {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.counters.iter();
        counters.flat_map(|counters| [counters.answers.desc(), counters.refused_tokens.desc()].concat()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counters = self.counters.iter();
        counters.flat_map(|counters| [counters.answers.collect(), counters.refused_tokens.collect()].concat()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_collected() {
        let tally = Tally::default();
        tally.answered("/livez", 200);
        tally.answered("/livez", 200);
        tally.refused_token();
        let registry = prometheus::Registry::new();
        registry.register(Box::new(tally)).expect("the names are right");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("it can be encoded");
        assert!(text.contains(r#"outrigger_http_requests_total{code="200",path="/livez"} 2"#), "{text}");
        assert!(text.contains("outrigger_http_refused_tokens_total 1"), "{text}");
    }
}
