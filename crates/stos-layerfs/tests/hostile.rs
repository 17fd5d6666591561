// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hostile layers: one table, each case a test of its own that runs on both backends.
//!
//! A case names its source and says what becomes of its layers: refused, with the kind of the error and a part of its
//! message, or shown, with what is to be seen. Either way nothing outside the store has changed: a canary tree, at which the
//! attacks aim by absolute paths and upwards, is compared in full before and after. Both backends show identical trees.

mod fixture;
mod hostile {
    pub mod archives;
    pub mod canary;
    pub mod case;
    pub mod links;
    pub mod metadata;
    pub mod naive;
    pub mod names;
    pub mod parents;
    pub mod runner;
    pub mod whiteouts;
}

use std::collections::BTreeSet;

use hostile::canary::World;
use hostile::case::{Aim, Case};
use hostile::naive::Naive;
use stos_testkit::guard::Need;

/// A test for each case, and all of them as a constant.
macro_rules! table {
    ($($group:ident: $($case:ident)*;)*) => {
        const TABLE: &[(&str, fn(&Aim) -> Case)] =
            &[$($((concat!(stringify!($group), "::", stringify!($case)), hostile::$group::$case),)*)*];

        $(mod $group {
            $(#[test]
            fn $case() {
                stos_testkit::require!(stos_testkit::guard::Need::Root);
                crate::hostile::runner::run(crate::hostile::$group::$case);
            })*
        })*
    };
}

table! {
    names:
        absolute_name
        absolute_name_of_a_directory
        absolute_name_of_a_symlink
        absolute_name_of_a_fifo
        parent_component_first
        parent_component_of_the_neighbour
        parent_component_within
        parent_component_after_a_slash
        parent_component_that_stays_inside
        parent_component_last
        parent_component_of_a_directory
        parent_component_in_a_long_name
        parent_component_in_pax_alone
        empty_name
        empty_name_of_a_directory
        dot_is_the_root
        dot_slash_is_the_root
        slash_is_the_root
        dot_as_a_file
        cve_2021_29136_dot_as_a_symlink
        cve_2021_29136_slash_as_a_symlink
        dot_as_a_fifo
        component_of_255_bytes
        component_of_256_bytes
        path_of_4096_bytes
        path_of_7000_bytes_through_a_symlink
        path_of_7000_bytes_that_is_replaced
        path_of_4097_bytes
        symlink_target_of_4096_bytes
        names_that_are_not_utf_8
        trailing_slash_of_a_file
        trailing_slash_of_a_symlink
        slashes_and_dots
        nul_in_a_pax_path
        nul_in_a_pax_link_target
        nul_in_a_sparse_name
        nul_in_an_attribute_name
        nul_in_an_attribute_value
        nul_in_a_header_name
    ;
    parents:
        parent_is_an_absolute_symlink
        parent_is_a_symlink_upwards
        parent_is_a_symlink_of_a_lower_layer
        grandparent_is_a_symlink
        parents_are_symlinks_one_after_the_other
        cve_2020_27833_symlink_through_a_symlink
        cve_2020_27833_out_of_wherever_a_layer_lies
        cve_2025_47290_parent_becomes_a_symlink
        cve_2025_47290_grandparent_becomes_a_symlink
        cve_2025_47290_parent_is_removed_by_a_whiteout
        cve_2026_33056_symlink_then_directory
        cve_2026_33056_symlink_of_a_lower_layer
        cve_2026_33056_below_a_symlink
        file_over_a_symlink
        file_over_a_symlink_of_a_lower_layer
        directory_over_a_symlink_of_a_lower_layer
        symlink_over_a_directory_of_a_lower_layer
        directory_symlink_directory
        parent_is_a_file
        parent_is_a_file_of_a_lower_layer
        parent_is_a_fifo
        parent_is_a_symlink_to_a_file
        parents_are_symlinks_in_a_circle
        parents_are_forty_one_symlinks
        parent_is_missing
        parent_is_missing_in_the_upper_layer
        parent_is_a_dangling_symlink
        same_name_twice
        same_name_twice_with_a_hard_link
        file_over_a_full_directory
        directory_over_a_directory
    ;
    links:
        hard_link_before_its_target
        hard_link_to_nothing
        hard_link_to_what_a_whiteout_removes
        hard_link_to_a_directory
        hard_link_to_a_directory_of_a_lower_layer
        hard_link_to_an_absolute_path
        hard_link_upwards
        hard_link_upwards_from_inside
        cve_2026_50163_hard_link_into_the_working_directory
        cve_2026_50163_hard_link_to_the_image_s_own
        cve_2021_32760_hard_link_to_a_symlink
        cve_2021_32760_hard_link_to_a_symlink_of_a_lower_layer
        hard_link_through_a_symlink_to_the_host
        hard_link_through_a_symlink_of_a_lower_layer
        hard_link_whose_name_leads_outside
        hard_link_through_a_symlink_inside
        hard_link_to_a_lower_layer_s_file
        hard_link_to_a_lower_layer_s_file_that_goes_then
        hard_link_to_the_root
        symlink_to_nothing
        hard_link_to_a_device
        hard_link_to_itself
        hard_link_with_a_size
    ;
    whiteouts:
        containerd_13030_whiteout_of_a_layer_by_itself
        containerd_13030_whiteouts_of_a_first_layer
        opaque_root_of_a_first_layer
        whiteout_before_its_siblings
        whiteout_after_its_siblings
        whiteout_before_the_same_name
        whiteout_after_the_same_name
        opaque_before_its_siblings
        opaque_after_its_siblings
        opaque_root
        whiteout_of_a_missing_name
        whiteout_below_a_file
        whiteout_below_what_has_become_a_file
        whiteout_then_the_directory_again
        the_directory_again_then_its_whiteout
        whiteout_then_a_file_below
        whiteouts_within_an_opaque_directory
        opaque_within_an_opaque_directory
        whiteout_then_a_third_layer
        whiteout_of_no_name
        whiteout_of_dot
        whiteout_of_dot_dot
        whiteout_with_a_parent_component
        whiteout_through_a_symlink
        whiteout_through_a_symlink_of_a_lower_layer
        opaque_through_a_symlink
        whiteout_through_a_symlink_inside
        whiteout_that_is_a_symlink
        whiteout_with_data
        metadata_of_aufs
        directory_called_like_a_whiteout
        device_0_0_is_a_whiteout
        device_0_0_of_a_first_layer
        overlay_redirect
        overlay_opaque
        overlay_metacopy
        overlay_whiteout_attribute
        overlay_escaped_attribute
    ;
    metadata:
        devices_and_fifos
        device_numbers_beyond_the_kernel_s
        socket
        unknown_types
        setuid_setgid_and_sticky
        directories_that_nobody_may_enter
        file_capabilities
        file_capabilities_that_are_none
        access_control_lists
        access_control_lists_that_are_none
        selinux_labels
        user_attributes_where_none_can_be
        large_ids
        id_of_all_ones
        id_that_overflows_to_root
        negative_id
        times_before_and_after_all
        time_beyond_63_bits
        sparse_gnu
        sparse_pax_0_0
        sparse_pax_0_1
        sparse_pax_1_0
        sparse_gnu_of_9_gib
        sparse_pax_0_0_of_9_gib
        sparse_pax_0_1_of_9_gib
        sparse_pax_1_0_of_9_gib
        sparse_name_upwards
        sparse_segments_that_overlap
        sparse_segments_that_fall
        sparse_segment_beyond_the_end
        sparse_offset_that_overflows
        size_of_9_gib_in_base_256
        size_of_9_gib_in_pax
        size_that_overflows_a_sum
        negative_size
        cve_2025_62518_size_in_pax_and_0_in_ustar
        cve_2026_33055_0_in_pax_and_size_in_ustar
    ;
    archives:
        cut_in_a_header
        cut_in_data
        cut_in_an_extended_header
        cut_after_an_extended_header
        cut_in_the_last_padding
        no_end_of_archive
        one_zero_block_at_the_end
        bytes_after_the_end
        zeros_after_the_end
        lone_zero_block_within
        wrong_checksum
        no_tar_at_all
        extended_header_of_a_gigabyte
        uncompressed
        gzip_of_several_members
        zstd_with_skippable_frames
        garbage_after_gzip
        zeros_after_gzip
        gzip_cut_short
        gzip_with_a_wrong_checksum
        garbage_after_zstd
        gzip_that_says_zstd
        empty_layer
        layer_of_no_bytes
        empty_layer_over_another
        gzip_bomb
        zstd_bomb
        gzip_bomb_after_the_end
    ;
}

/// The table can fail: each attack of it changes the canary where names are joined to paths.
#[test]
fn a_naive_unpacker_falls_for_every_attack() {
    stos_testkit::require!(Need::Root);
    let mut harmless = Vec::new();
    let mut attacks = BTreeSet::new();
    for (name, case) in TABLE {
        let world = World::new();
        let case = case(&Aim(world.canary()));
        if !case.is_attack {
            continue;
        }
        attacks.insert(*name);
        let root = world.path().join("naive");
        std::fs::create_dir(&root).unwrap();
        let before = world.snapshot("naive");
        let naive = Naive { world: world.path(), root, working_directory: world.canary() };
        case.layers.iter().for_each(|layer| naive.unpack(&layer.tar));
        if before.is_same(&world.snapshot("naive")) {
            harmless.push(*name);
        }
    }
    assert_eq!(harmless, [""; 0], "they aim at nothing");
    for cve in ["2020_27833", "2021_29136", "2021_32760", "2025_47290", "2025_62518", "2026_33056", "2026_50163"] {
        assert!(attacks.iter().any(|name| name.contains(cve)), "no attack of CVE {cve}");
    }
    assert!(attacks.len() >= 35, "{} attacks", attacks.len());
}
