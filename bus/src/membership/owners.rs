//! Which router should own which shard: rendezvous hashing with bounded load.

use std::collections::HashMap;

use switchboard_proto::ids::{Incarnation, ShardCount};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Any number, but the same in every process and release: others must come to the same answer.
const SEED: u64 = 0x5357_4954_4348_4244;

/// The router that should own each shard, by shard number; `None` only without routers.
///
/// Every pair of shard and router has a score, and pairs are joined from the highest on, each
/// router taking at most `ceil(shards / routers)`. So the load is even, the answer does not depend
/// on the order of `routers`, and when one comes or goes few other shards move. Costs a sort of all
/// pairs: ask when the routers change, not more often.
pub fn owners(shards: ShardCount, routers: &[Incarnation]) -> Vec<Option<Incarnation>> {
    let mut routers = routers.to_vec();
    routers.sort_unstable();
    routers.dedup();
    let count = usize::from(shards.get());
    let mut owners = vec![None; count];
    let most = count.div_ceil(routers.len().max(1));
    let mut pairs: Vec<(u64, u16, Incarnation)> = Vec::with_capacity(count * routers.len());
    for router in &routers {
        pairs.extend(
            shards
                .iter()
                .map(|shard| (score(shard.get(), *router), shard.get(), *router)),
        );
    }
    pairs.sort_unstable_by(|one, other| other.cmp(one));
    let mut loads: HashMap<Incarnation, usize> = HashMap::new();
    for (_, shard, router) in pairs {
        let load = loads.entry(router).or_default();
        if let Some(owner @ None) = owners.get_mut(usize::from(shard))
            && *load < most
        {
            *owner = Some(router);
            *load += 1;
        }
    }
    owners
}

fn score(shard: u16, router: Incarnation) -> u64 {
    let [high, low] = shard.to_be_bytes();
    let mut key = [0; 18];
    for (place, byte) in key.iter_mut().zip([high, low].iter().chain(router.as_bytes())) {
        *place = *byte;
    }
    xxh3_64_with_seed(&key, SEED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routers(count: u128) -> Vec<Incarnation> {
        // Far apart, as random ids are.
        (1..=count)
            .map(|n| Incarnation::from_u128(n * 0x9e37_79b9_7f4a_7c15_f39c))
            .collect()
    }

    fn shards(count: u32) -> ShardCount {
        ShardCount::new(count).unwrap()
    }

    #[test]
    fn nobody_owns_without_routers() {
        assert_eq!(owners(shards(4), &[]), [None; 4]);
    }

    #[test]
    fn load_is_even_and_complete() {
        for (count, routers) in [
            (16, routers(1)),
            (16, routers(3)),
            (64, routers(5)),
            (2, routers(5)),
        ] {
            let most = (count as usize).div_ceil(routers.len());
            let owners = owners(shards(count), &routers);
            assert!(owners.iter().all(Option::is_some));
            for router in &routers {
                let load = owners.iter().filter(|owner| **owner == Some(*router)).count();
                assert!(
                    load <= most,
                    "{load} of {count} shards with {} routers",
                    routers.len()
                );
            }
        }
    }

    #[test]
    fn order_and_repeats_do_not_matter() {
        let sorted = routers(5);
        let mut shuffled = sorted.clone();
        shuffled.rotate_left(2);
        shuffled.swap(0, 3);
        shuffled.push(sorted[0]);
        assert_eq!(owners(shards(64), &sorted), owners(shards(64), &shuffled));
    }

    /// Where one leaves, its shards must move; of the others' only few may.
    #[test]
    fn few_shards_move_when_one_leaves() {
        let before_routers = routers(5);
        let before = owners(shards(64), &before_routers);
        for gone in &before_routers {
            let left: Vec<Incarnation> = before_routers.iter().copied().filter(|one| one != gone).collect();
            let after = owners(shards(64), &left);
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(before, after)| **before != Some(*gone) && before != after)
                .count();
            assert!(moved <= 10, "{moved} of 64 moved without need");
        }
    }

    /// Processes of mixed releases must agree: a changed seed or order would make shards ping-pong.
    #[test]
    fn answer_is_the_same_in_every_release() {
        let routers = routers(3);
        let owners = owners(shards(8), &routers);
        let places: Vec<usize> = owners
            .iter()
            .map(|owner| routers.iter().position(|router| Some(*router) == *owner).unwrap())
            .collect();
        assert_eq!(places, GOLDEN);
    }
    const GOLDEN: [usize; 8] = [1, 0, 2, 2, 0, 2, 0, 1];
}
