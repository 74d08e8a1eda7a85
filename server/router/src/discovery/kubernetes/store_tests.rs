use ferrum_engine::Task;

use super::*;

fn key(namespace: &str, name: &str) -> Key {
    Key {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn model(created_seconds: i64, served_names: &[&str]) -> Option<ModelFacts> {
    Some(ModelFacts {
        created_seconds,
        served_names: served_names.iter().map(|&name| name.to_owned()).collect(),
        task: Task::Chat,
        message: None,
        phase: None,
    })
}

fn pod(uid: &str, created_seconds: i64) -> Option<PodFacts> {
    Some(PodFacts {
        uid: uid.to_owned(),
        created_seconds,
        model: "m".to_owned(),
        address: IpAddr::from([10, 0, 0, 1]),
        port: 8080,
        is_draining: false,
    })
}

/// One model `a/m` with one pod.
fn store() -> Store {
    let mut store = Store::new(1);
    for event in [
        Event::Init,
        Event::InitApply((key("a", "m"), model(5, &["m"]))),
        Event::InitDone,
    ] {
        store.models[0].hear(event);
    }
    for event in [
        Event::Init,
        Event::InitApply((key("a", "m-1"), pod("u1", 6))),
        Event::InitDone,
    ] {
        store.pods[0].hear(event);
    }
    store
}

fn replica_ids(store: &Store) -> Vec<String> {
    let endpoints = store.snapshot().expect("complete");
    endpoints.check().expect("consistent");
    endpoints.replicas.into_iter().map(|replica| replica.id).collect()
}

#[test]
fn there_is_no_snapshot_until_every_watch_has_listed() {
    let mut store = Store::new(1);
    store.models[0].hear(Event::Init);
    store.models[0].hear(Event::InitDone);
    assert_eq!(store.snapshot(), None);
    store.pods[0].hear(Event::Init);
    assert_eq!(store.snapshot(), None);
    store.pods[0].hear(Event::InitDone);
    assert_eq!(store.snapshot(), Some(Endpoints::default()));
}

#[test]
fn a_model_without_a_replica_is_known() {
    let mut store = store();
    store.pods[0].hear(Event::Delete((key("a", "m-1"), None)));
    let endpoints = store.snapshot().expect("complete");
    assert_eq!((endpoints.models.len(), endpoints.replicas.len()), (1, 0));
    assert_eq!(endpoints.models[0].name, "a/m");
}

#[test]
fn a_list_that_breaks_off_changes_nothing_and_a_whole_one_forgets_what_is_gone() {
    let mut store = store();
    store.pods[0].hear(Event::Init);
    store.pods[0].hear(Event::InitApply((key("a", "m-2"), pod("u2", 6))));
    assert_eq!(replica_ids(&store), ["a/m-1/u1"]);
    // Once more from the beginning, and to the end.
    store.pods[0].hear(Event::Init);
    store.pods[0].hear(Event::InitApply((key("a", "m-3"), pod("u3", 6))));
    assert!(store.pods[0].hear(Event::InitDone));
    assert_eq!(replica_ids(&store), ["a/m-3/u3"]);
}

#[test]
fn a_pod_of_the_same_name_is_another_replica() {
    let mut store = store();
    store.pods[0].hear(Event::Delete((key("a", "m-1"), None)));
    store.pods[0].hear(Event::Apply((key("a", "m-1"), pod("u9", 7))));
    assert_eq!(replica_ids(&store), ["a/m-1/u9"]);
}

#[test]
fn pods_of_a_model_that_was_deleted_and_made_again_are_not_taken_for_the_new_ones() {
    let mut store = store();
    store.models[0].hear(Event::Delete((key("a", "m"), None)));
    assert!(replica_ids(&store).is_empty());
    store.models[0].hear(Event::Apply((key("a", "m"), model(20, &["m"]))));
    store.pods[0].hear(Event::Apply((key("a", "m-2"), pod("u2", 20))));
    assert_eq!(replica_ids(&store), ["a/m-2/u2"]);
}

#[test]
fn pods_belong_to_the_model_of_their_own_namespace() {
    let mut store = store();
    store.pods[0].hear(Event::Apply((key("b", "m-1"), pod("u2", 6))));
    assert_eq!(replica_ids(&store), ["a/m-1/u1"]);
    store.models[0].hear(Event::Apply((key("b", "m"), model(5, &["other"]))));
    assert_eq!(replica_ids(&store), ["a/m-1/u1", "b/m-1/u2"]);
}

#[test]
fn the_older_model_has_a_name_that_two_claim_until_it_goes() {
    let mut store = store();
    store.models[0].hear(Event::Apply((key("b", "late"), model(9, &["m", "extra"]))));
    store.models[0].hear(Event::Apply((key("c", "later"), model(10, &["m"]))));
    let names = |store: &Store| -> Vec<_> {
        let models = store.snapshot().expect("complete").models;
        models
            .into_iter()
            .map(|model| (model.name, model.served_names.concat()))
            .collect()
    };
    let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
        pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    assert_eq!(names(&store), owned(&[("a/m", "m"), ("b/late", "extra")]));
    store.models[0].hear(Event::Delete((key("a", "m"), None)));
    assert_eq!(names(&store), owned(&[("b/late", "mextra")]));
}

#[test]
fn an_address_of_six_bytes_more_is_written_in_brackets() {
    let mut store = store();
    let mut six = pod("u6", 6).expect("pod");
    six.address = "fd00::7".parse().expect("address");
    store.pods[0].hear(Event::Apply((key("a", "m-1"), Some(six))));
    let endpoints = store.snapshot().expect("complete");
    assert_eq!(endpoints.replicas[0].url, "http://[fd00::7]:8080");
}
