"""From a symptom to the codes that explain it: the page `notebooks/CLINIC.md`, which `python -m` this module prints."""

from sftlib.doctor.examine import CHECKS

# The likeliest first
SYMPTOMS: dict[str, tuple[str, ...]] = {
    "The loss stays where it began (log K for K classes)": (
        "trainable_not_in_optimizer", "parameters_of_a_replaced_part", "learning_rate_changes_nothing",
        "probabilities_into_cross_entropy", "pixel_scale", "loss_without_gradient", "constant_loss", "nothing_trains",
        "optimizer_never_steps", "rate_is_no_rate", "updates_vanish_in_half_precision", "clip_before_unscale",
        "lora_changes_nothing",
    ),
    "The loss falls and stops far above 0": (
        "probabilities_into_cross_entropy", "sigmoid_before_loss", "gradient_does_not_reach", "training_not_shuffled",
        "learning_rate_too_high", "log_probabilities_into_cross_entropy",
    ),
    "The loss jumps, climbs or becomes NaN": (
        "learning_rate_too_high", "gradients_accumulate", "non_finite_inputs", "non_finite_loss",
        "non_finite_gradients", "non_finite_parameters", "batch_without_target", "float16_without_scaler",
        "clip_before_backward", "parameter_in_two_groups", "rate_is_no_rate",
    ),
    "The loss is negative": ("scores_into_nll",),
    "It ends in an error": ("step_fails", "labels_out_of_range", "labels_start_at_1", "last_batch_of_one"),
    "Training is good, validation poor or jumping": (
        "frozen_batchnorm_in_train_mode", "freeze_undone_by_train", "train_mode_in_evaluation",
        "tiny_batches_with_batchnorm", "validation_augmented", "label_maps_differ", "random_in_eval_mode",
        "eval_does_not_reach", "eval_mode_in_training", "frozen_batchnorm_without_statistics",
    ),
    "Validation is too good to be true": (
        "splits_overlap", "near_duplicates", "groups_across_splits", "heavy_imbalance",
    ),
    "A pretrained network is hardly better than a random one": (
        "pixel_scale", "pixel_mean_and_deviation", "channel_order", "picture_size", "learning_rate_too_high",
        "same_rate_for_backbone_and_head", "part_never_used",
    ),
    "What should be frozen moves": (
        "requires_grad_set_on_a_module", "requires_grad_is_no_freeze", "frozen_batchnorm_in_train_mode",
        "freeze_undone_by_train", "frozen_parameter_in_optimizer", "shared_parameter_half_frozen",
        "dropout_in_a_frozen_part",
    ),
    "A part stays as it was drawn": (
        "trainable_not_in_optimizer", "parameters_of_a_replaced_part", "loss_parameters_not_in_optimizer",
        "part_never_used", "gradient_does_not_reach", "auxiliary_head_left", "lora_changes_nothing",
    ),
    "Some class is never predicted, or one always": (
        "heavy_imbalance", "classes_missing_in_training", "training_not_shuffled", "labels_start_at_1",
        "label_maps_differ",
    ),
    "The same script gives another result each time": ("unseeded_workers", "random_in_eval_mode"),
    "A language model does not stop, echoes the prompt or skips tokens": (
        "end_of_turn_never_a_target", "labels_shifted_twice", "prompt_in_the_loss", "double_begin_token",
        "batch_without_target",
    ),
    "Training is slow, or memory runs out": (
        "gradients_in_evaluation", "grad_scaler_with_bfloat16", "log_probabilities_into_cross_entropy",
    ),
}  # fmt: skip
NEEDS = {
    "": "model, optimizer", "train_loader": "`train_loader=`", "val_loader": "`val_loader=`",
    "train_loader and val_loader": "`train_loader=`, `val_loader=`", "a loss": "`train_loader=`, or `step=`",
    "step": "`step=`", "evaluate": "`evaluate=`",
}  # fmt: skip


def page() -> str:
    """The page to print, in Markdown: symptom -> suspects, and what each code means"""
    suspects = [
        f"| {symptom} | {', '.join(f'`{code}`' for code in codes)} |" for symptom, codes in SYMPTOMS.items()
    ]  # fmt: skip
    codes = [
        f"| `{check.__name__}` | {check.__doc__.strip().splitlines()[0]} | {NEEDS[need]} |"
        for need, checks in CHECKS.items() for check in checks
    ]  # fmt: skip
    return "\n".join([
        "# The bug clinic: from the symptom to the suspects", "",
        "`sftlib.doctor.diagnose(model, optimizer, …)` looks for all of them in seconds. The likeliest stand first.",
        "", "| symptom | suspects |", "|---|---|", *suspects, "",
        "## What each code means", "", "| code | it says | the doctor needs |", "|---|---|---|", *codes, "",
    ])  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
