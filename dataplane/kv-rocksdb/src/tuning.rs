//! RocksDB's settings, in one place, each with its reason.

use crate::Options;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel,
    WriteBufferManager,
};

/// Settings that RocksDB takes only from an open database. Reads go through every range deletion
/// of the memtable; some tens of them and it is flushed, which files them away.
pub(crate) const CHANGED_AFTER_OPEN: &[(&str, &str)] = &[("memtable_max_range_deletions", "64")];

/// Open table files: the process shares its descriptors with the cache of file data.
const OPEN_FILES: i32 = 512;

/// What `DB::open` gets.
pub(crate) fn options(wanted: &Options) -> rocksdb::Options {
    let memory = wanted.memory_bytes.max(4 << 20) as usize;
    // The clock takes no lock and moves nothing when it finds a block.
    let cache = Cache::new_hyper_clock_cache(memory, 0);
    // A quarter for write buffers at most, charged to the cache: together they keep the budget.
    // Stalling writers to keep it exactly would trade a little memory for long pauses.
    let buffers = memory / 4;
    let manager =
        WriteBufferManager::new_write_buffer_manager_with_cache(buffers, false, cache.clone());

    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_format_version(6);
    // A row that is not in memory costs a whole block. With this size and LZ4, also at the bottom, a
    // third of what 8 KiB of zstd cost; the price is 20 bytes an inode on disk.
    table.set_block_size(4 << 10);
    // Index and filter in the cache, in parts, so that a large database needs no memory of its
    // own for them; the small top levels stay.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_pin_top_level_index_and_filter(true);
    // Whole keys, 10 bits: about one needless block read in a hundred lookups of absent keys.
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(true);
    table.set_optimize_filters_for_memory(true);

    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    // A record cut short at the end was never acknowledged. A whole one may have been, also the
    // last, so damage to it must not pass for the end, as it would by default.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_manager(&manager);
    options.set_write_buffer_size((buffers / 2).clamp(1 << 20, 64 << 20));
    options.set_max_write_buffer_number(4);
    options.set_target_file_size_base(32 << 20);
    options.set_max_bytes_for_level_base(128 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    // Tables are compacted where queues (deleted from the front) leave many tombstones.
    options.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_manifest_file_size(16 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}
