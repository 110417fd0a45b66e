//! The ladder of accuracy levels of quasi-Monte-Carlo averages.

use super::tuning::Tuning;

/// Numbers of nodes of the levels, in increasing order. The nodes of each level are the first nodes of the
/// next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Levels {
    nodes: Vec<usize>,
}

impl Levels {
    /// The coarse levels of `tuning`, and the level with `2^log2_nodes` nodes, for each of some scrambles. A level has
    /// at least one block of `size` samples.
    pub(crate) fn up_to(log2_nodes: usize, scrambles: usize, tuning: &Tuning, size: usize) -> Self {
        let finest = 1 << log2_nodes;
        // Rounded up after the bound, so that no number is too large to be rounded.
        let rounded = |nodes: usize| {
            nodes.div_ceil(scrambles.max(1)).min(finest).next_power_of_two().next_multiple_of(size).max(size)
        };
        let coarse = tuning.coarse_nodes.into_iter().map(rounded);
        Self { nodes: coarse.filter(|nodes| *nodes < finest).chain([finest]).collect() }
    }

    /// The number of levels.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The number of nodes of a level. Beyond the finest level, it is that of the finest.
    pub(crate) fn nodes(&self, level: usize) -> usize {
        self.nodes.get(level).or(self.nodes.last()).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finest_level_has_the_nodes_that_were_asked_for() {
        // The coarse levels have 2^8 and 2^11 nodes for each of four scrambles.
        for (log2_nodes, count) in [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 3)] {
            let levels = Levels::up_to(log2_nodes, 4, &Tuning::default(), 8);
            assert_eq!(levels.count(), count);
            assert_eq!(levels.nodes(count - 1), 1 << log2_nodes);
            assert_eq!(levels.nodes(count), 1 << log2_nodes);
            assert!((1..count).all(|level| levels.nodes(level - 1) < levels.nodes(level)));
        }
    }
}
