//! Who has a served name that several FerrumModels want. Router and operator must agree on it, so it is decided here.

use std::collections::HashMap;

/// A FerrumModel and the names that it wants to serve.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its creationTimestamp, in seconds since 1970.
    pub created_seconds: i64,
    /// The names, as [`served names`](crate::FerrumModelSpec::served_names) or their default have them.
    pub served_names: &'a [String],
}

/// Each served name and the index of the claim that has it: the older object's, and of two made in the same second,
/// the first by namespace and name. A model that loses one name keeps its others.
pub fn claims<'a>(claiming: &[Claim<'a>]) -> HashMap<&'a str, usize> {
    let rank = |index: usize| {
        let claim = &claiming[index];
        (claim.created_seconds, claim.namespace, claim.name)
    };
    let mut owners = HashMap::new();
    for (index, claim) in claiming.iter().enumerate() {
        for name in claim.served_names {
            let owner = owners.entry(name.as_str()).or_insert(index);
            if rank(index) < rank(*owner) {
                *owner = index;
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn claim<'a>(
        (namespace, name): (&'a str, &'a str),
        created_seconds: i64,
        served_names: &'a [String],
    ) -> Claim<'a> {
        Claim {
            namespace,
            name,
            created_seconds,
            served_names,
        }
    }

    #[test]
    fn the_older_object_has_the_name_in_whatever_order_they_come() {
        let (both, one) = (names(&["x", "y"]), names(&["x"]));
        let (old, young) = (claim(("b", "old"), 5, &one), claim(("a", "young"), 6, &both));
        let owners = claims(&[young, old]);
        assert_eq!((owners["x"], owners["y"]), (1, 0));
        let owners = claims(&[old, young]);
        assert_eq!((owners["x"], owners["y"]), (0, 1));
    }

    #[test]
    fn of_two_made_in_the_same_second_namespace_and_name_decide() {
        let wanted = names(&["x"]);
        let (first, second, third) = (
            claim(("a", "m"), 5, &wanted),
            claim(("a", "n"), 5, &wanted),
            claim(("b", "a"), 5, &wanted),
        );
        assert_eq!(claims(&[third, second, first])["x"], 2);
        assert_eq!(claims(&[third, second])["x"], 1);
    }

    #[test]
    fn a_name_that_one_object_lists_twice_is_no_clash() {
        let wanted = names(&["x", "x"]);
        assert_eq!(claims(&[claim(("a", "m"), 5, &wanted)])["x"], 0);
    }
}
