//! Weights on their way into a cache.

use super::*;

#[test]
fn weights_on_their_way_into_a_cache_are_no_fault() {
    let spec = "model: 'hf://org/name', cache: {size: 1Gi}";
    let status = status_of(spec, &Observed::default(), Weights::Awaited);
    assert_eq!(told(&status, "WeightsCached").1, "FetchingWeights");
    assert_eq!(told(&status, "Ready").1, "FetchingWeights");
    assert_eq!(told(&status, "Degraded").0, "False");
    let failing = container(
        "running: {}",
        "terminated: {exitCode: 1, message: '{\"reason\":\"Gated\",\"message\":\"accept\"}'}",
        1,
    );
    let observed = Observed {
        fetchers: vec![pod("f", &failing)],
        ..Observed::default()
    };
    assert_eq!(
        told(&status_of(spec, &observed, Weights::Awaited), "Degraded").1,
        "Gated"
    );
}

#[test]
fn a_fetch_into_a_cache_tells_its_share() {
    let fetching = container("running: {}", "", 0);
    let mut observed = Observed {
        fetchers: vec![pod("f", &fetching)],
        ..Observed::default()
    };
    observed.facts.insert(
        "f".to_owned(),
        facts(Phase::Fetching, 3_483_000_000, 8_100_000_000),
    );
    let status = status_of(
        "model: 'hf://org/name', cache: {size: 10Gi}",
        &observed,
        Weights::Awaited,
    );
    for kind in ["WeightsCached", "Ready", "Progressing"] {
        let (_, reason, message) = told(&status, kind);
        assert_eq!(
            (reason.as_str(), message.as_str()),
            ("FetchingWeights", "weights: 43 % of 8.1 GB"),
            "{kind}"
        );
    }
}
