"""Steps as processes: the interpreter is put in the place of a command, and of nothing else."""

from kfp.local import subprocess_task_handler

from pipelines.runners.processes import process_runner, with_interpreter

LINE = (
    'program_path=$(mktemp -d)\n\nprintf "%s" "$0" > "$program_path/ephemeral_component.py"\n'
    "_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main "
    '--component_module_path "$program_path/ephemeral_component.py" "$@"\n'
)


def test_paths_and_code_that_name_python3_stay_as_they_are():
    code = "print('python3 -m kfp.dsl.executor_main')"
    arguments = ["--executor_input", '{"run": "/venv/lib/python3.11/site-packages"}']
    command = ["sh", "-ec", LINE, code, *arguments]
    replaced = with_interpreter(command, "/my venv/bin/python")
    assert replaced[2] == LINE.replace("python3", "'/my venv/bin/python'")
    assert replaced[:2] + replaced[3:] == command[:2] + command[3:]


def test_kfp_still_has_the_function_that_is_replaced():
    assert callable(subprocess_task_handler.replace_python_executable)
    process_runner()
    assert subprocess_task_handler.replace_python_executable is with_interpreter
