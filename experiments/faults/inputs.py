"""The rows of docs/input.md and the tests that show them; `run` runs these and says row by row how it went."""

import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]

TESTS = {  # row: {tests/test_NAME.py: the functions test_...}
    25: {
        "data_hostile": ["cut_files_are_found_by_their_ends_or_by_decoding",
                         "a_jpeg_with_something_behind_its_end_is_whole",
                         "a_truncated_file_is_left_out_and_what_remains_is_the_same_data",
                         "strict_makes_an_error_of_each_warning"],
        "data_decode": ["truncation_names_the_file"],
        "data_tfds": ["a_truncated_image_is_left_out_before_anything_is_computed"],
        "pipeline": ["an_unreadable_image_stops_a_strict_run"],
    },
    26: {
        "data_hostile": ["a_flip_that_its_decoder_sees_is_found_where_the_split_is_kept",
                         "a_flip_inside_a_jpeg_is_seen_by_its_sum_alone"],
        "data_tfds": ["damaged_files_are_named"],
    },
    27: {
        "data_folder": ["unreadable_headers_are_left_out_and_counted", "unreadable_headers_stop_a_strict_run",
                        "format_is_decided_by_content_and_folders_may_nest"],
        "data_decode": ["no_image_names_the_file"],
    },
    28: {
        "data_decode": ["rgb_is_unchanged", "grey_and_bilevel", "palette_with_and_without_transparency",
                        "alpha_is_composed_over_white", "cmyk_jpeg"],
    },
    29: {
        "data_decode": ["sixteen_bits_keep_their_high_byte", "sixteen_bit_png_file",
                        "pixels_without_a_range_are_refused"],
        "data_hostile": ["odd_sizes_and_depths_are_counted"],
    },
    30: {"data_decode": ["first_frame_of_an_animation"], "data_folder": ["animations_and_rotations_are_counted"]},
    31: {"data_decode": ["exif_rotation_only_when_asked"], "data_folder": ["animations_and_rotations_are_counted"]},
    32: {
        "data_hostile": ["odd_sizes_and_depths_are_counted"],
        "data_decode": ["fit_of_extreme_shapes", "the_middle_of_an_extreme_shape_is_what_remains"],
    },
    33: {
        "data_decode": ["pixel_limit_is_checked_before_decoding"],
        "data_folder": ["unreadable_headers_are_left_out_and_counted", "unreadable_headers_stop_a_strict_run"],
    },
    34: {
        "data_hostile": ["other_formats_never_reach_their_plugin"],
        "data_decode": ["other_formats_are_not_opened"],
    },
    35: {
        "data_folder": ["an_empty_class_is_named", "a_class_emptied_by_unreadable_files_is_named_with_the_reason"],
        "pipeline": ["an_empty_class_stops_the_run"],
    },
    36: {"pipeline": ["too_few_images_stop_the_run_before_training", "enough_is_counted_per_method"]},
    37: {
        "data_settings": ["a_dataset_refuses_what_cannot_be_trained_on", "labels_are_whole_numbers_of_32_bits",
                          "five_bad_labels_are_listed"],
        "data_tfds": ["unlabelled_split_is_refused"],
    },
    38: {
        "data_hostile": ["copies_leaks_and_doubtful_labels_are_counted_and_named"],
        "data_tfds": ["copies_are_warned_of"],
    },
    39: {"data_folder": ["junk_is_ignored_and_counted"]},
    40: {
        "data_folder": ["unicode_and_odd_names"],
        "data_settings": ["class_names_are_visible_text_in_one_line"],
    },
    41: {
        "data_folder": ["links_stay_inside_the_split"],
        "data_hostile": ["folders_may_nest_deeper_than_functions"],
    },
    42: {"data_hostile": ["archives_are_refused_and_nothing_is_written"]},
    43: {
        "data_tfds": ["missing_features_are_listed", "a_wrong_split_is_named", "not_prepared_says_what_to_run",
                      "an_unknown_name_gets_the_nearest", "tfrecord_needs_another_format", "damaged_files_are_named",
                      "damaged_metadata_is_named", "records_that_lack_a_key_are_named",
                      "an_undecodable_record_is_named"],
    },
    44: {
        "data_folder": ["order_does_not_depend_on_creation_and_the_id_follows_the_content"],
        "pipeline": ["of_many_differences_in_the_data_some_are_named"],
    },
    45: {
        "data_folder": ["files_that_change_after_the_listing_are_named"],
        "data_hostile": ["a_fault_of_the_disk_is_not_blamed_on_the_image"],
    },
    46: {
        "weights": ["a_tensor_that_is_not_finite_is_named"],
        "hostile_teachers": ["a_teacher_of_our_own_that_is_not_finite_is_refused_before_it_is_measured"],
        "score": ["broken_weights_stop_the_run"],
        "label": ["broken_weights_and_unknown_teachers_are_refused"],
        "attribute": ["a_broken_network_is_named_with_its_class"],
    },
    47: {
        "select": ["rows_are_in_the_order_of_pythons_sort", "rounding_noise_does_not_change_the_order_of_ties",
                   "ties_are_counted_and_told", "a_tie_stops_a_strict_run_and_draws_and_places_never_tie",
                   "images_whose_patches_are_all_worth_the_same_are_told"],
    },
    48: {
        "weights": ["every_kind_of_wrong_key_is_listed_and_the_tensors_stay", "many_keys_are_counted_and_ten_are_named",
                    "a_head_of_another_number_of_classes_is_said", "integers_do_not_pass_for_weights"],
        "hostile_teachers": ["transposed_tensors_are_listed"],
    },
    49: {
        "weights": ["pickled_weights_are_refused_unread_with_the_way_to_convert_them",
                    "a_name_does_not_make_a_pickle"],
        "hostile_teachers": ["no_disguise_makes_a_pickle_run"],
    },
    50: {
        "weights": ["a_broken_file_is_named_with_its_fault", "a_type_without_numpy_is_named",
                    "what_a_header_claims_is_not_allocated"],
        "hostile_teachers": ["json_that_nests_without_end_is_named"],
        "pretrained": ["another_sha256_is_refused_and_the_right_one_is_silent"],
    },
    51: {"hostile_teachers": ["no_disguise_makes_a_pickle_run"]},
    52: {
        "teacher": ["imported_weights_are_near_their_record_and_far_from_chance"],
        "pretrained": ["classes_in_another_order_are_refused_with_a_hint",
                       "weights_without_a_record_are_only_held_against_chance"],
    },
    53: {
        "selfcheck": ["both_forms_of_the_layerwise_norms_are_checked",
                      "wrong_rows_off_the_first_device_are_refused"],
    },
    54: {"evaluate": ["impossible_settings_are_refused"], "records": ["logits_must_be_finite"]},
    60: {
        "data_hostile": ["names_that_act_on_a_terminal_are_shown_as_text"],
        "hostile_teachers": ["keys_and_labels_of_a_file_are_shown_as_text"],
    },
}  # fmt: skip

SHORT = {  # of what the fault matrix asks
    26: "a flip that no decoder sees (most of a JPEG's) goes unseen without SHA256SUMS",
    32: "enlarged with a note, no warning",
    35: "no way to go on with an empty class",
    36: "no option to repeat images or to take fewer",
    38: "copies that were encoded again are not found; no option to leave copies out",
    40: "class names with control characters are refused",
    41: "no option to follow links",
    44: "no test changes the locale; names are sorted as bytes",
    48: "exit code 3 where the matrix has 2",
    50: "flipped bits go unseen without teacher.weights_sha256, as in the matrix",
}


def documented() -> dict[int, str]:
    """The inputs of docs/input.md by row; a line without a number belongs to the row above."""
    rows, row = collections.defaultdict(list), 0
    for number, text in re.findall(r"^\| (\d*) ?\| ([^|]+) \|", (ROOT / "docs/input.md").read_text(), re.MULTILINE):
        row = int(number or row)
        rows[row].append(text)
    return {row: "; ".join(texts) for row, texts in rows.items() if row}


def run(tests: dict = TESTS, root: Path = ROOT) -> dict:
    """Row -> its input, the number of tests tried and as stated (all their cases passed), and names of the others."""
    names = {row: [(module, test) for module in of for test in of[module]] for row, of in tests.items()}
    unique = sorted({name for row in names.values() for name in row})
    passed = _run(root, [f"tests/test_{module}.py::test_{test}" for module, test in unique])
    results = {}
    for row, text in documented().items():
        tried = names.get(row, [])
        failed = [f"{module}::{test}" for module, test in tried if not passed.get(f"test_{module}::test_{test}")]
        results[str(row)] = {"input": text, "tried": len(tried), "as_stated": len(tried) - len(failed),
                             "failed": failed, "short": SHORT.get(row, "")}  # fmt: skip
    return results


def _run(root: Path, names: list[str]) -> dict[str, bool]:
    """Module::test -> whether all its cases passed, of those that ran."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *names]
        ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if ended.returncode not in (0, 1):  # 1: some failed
            sys.exit(f"error: pytest ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-2000:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    passed = {}
    for case in cases:
        name = f"{case.get('classname').split('.')[-1]}::{case.get('name').split('[')[0]}"
        good = all(case.find(tag) is None for tag in ("failure", "error", "skipped"))
        passed[name] = passed.get(name, True) and good
    return passed
