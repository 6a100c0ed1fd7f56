"""Names that nothing in the package calls, by who does: vulture reads this file as their use. Nothing runs it."""

# pytest: hooks, fixtures and parts of items
_.pytest_addoption
_.pytest_cmdline_main
_.pytest_load_initial_conftests
_.pytest_configure
_.pytest_unconfigure
_.pytest_report_header
_.pytest_pycollect_makeitem
_.pytest_make_collect_report
_.pytest_collectreport
_.pytest_collection_modifyitems
_.pytest_collection_finish
_.pytest_fixture_setup
_.pytest_runtestloop
_.pytest_runtest_setup
_.pytest_runtest_call
_.pytest_runtest_teardown
_.pytest_warning_recorded
_.pytest_runtest_makereport
_.pytest_sessionfinish
_.pytest_terminal_summary
_.pytest_keyboard_interrupt
_.testsfailed
_.pytest_testnodedown
_.pytest_testnodeready
_.dspy_lm
_.dspy_teacher_lm
_.dspy_trainset
_.dspy_devset
_.dspy_testset
_.dspy_evaluate
_.dspy_baseline
_.dspy_prompt_optimized
_.dspy_finetuned
_.dspy_better_together
_.reportinfo
_.iter_markers_with_node
_.testscollected
_.tx
_.dist

# Python's import system
_.__getattr__
_.__dir__
_.create_module
_.exec_module

# logging
_.exc_text

# DSPy
_.is_provider_model
_._compiled
_.launch_kwargs
_.__class__

# torch, transformers and peft
_.backward
_.compute_loss
_.num_items_in_batch
_.create_scheduler
_.get_train_dataloader
_.on_train_begin
_.on_step_begin
_.on_step_end
_.should_training_stop
_.gradient_checkpointing
_._gradient_checkpointing_func
_._n_gpu
_.name_or_path

# users, in scripts and notebooks
_.from_file
_.from_examples
_.duplicates
_.recording
_.stats
_.seconds_elapsed
_.validation_rows
_.first_loss
_.last_loss
_.first_validation_loss
_.last_validation_loss

# the template of the HTML page
_.filters
_.height
_.same_as
_.smooth
_.validation_line

# files: fields that readers of a record look at, and pydantic
_.model_config
_._hold_what_can_be_written
_._of_before
_.schema_version
_.description
_.seconds_per_call
_.build_cost
_.build_seconds
_.points_per_dollar
_.points_per_minute
_.learning_rate_multiplier

# what holds traced code against today's, and tests
_.own_packages
_.clear_cache
_.function_digest

# the page's templates
_.band

# a Hugging Face config, and readers of a receipt
_.tie_word_embeddings
_._name_or_path
_.receipt_format
_.record_digest
_.imports
# made by their names, in finetune/hosted/registry.py
AzureService

# training services: classes that their registry names, and settings that tables name
_.lora_rank
_.lora_alpha
_.overlong_row_behavior
_.CrusoeService
_.packing
_.context_length
_.lora_r
_.NebiusService
_.TinkerService
_.TogetherService
_.min_lr_ratio
_.max_seq_length
_.train_on_inputs
_.lora_trainable_modules
