//! Maps and sets of the state machines. Their order is random, as always, but in a simulation the same in every
//! run: there a seed alone has to decide what happens.

#[cfg(not(feature = "simulation"))]
type State = std::hash::RandomState;
#[cfg(feature = "simulation")]
type State = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, State>;
