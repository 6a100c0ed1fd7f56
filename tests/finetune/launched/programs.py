"""Programs that stand for a service's: run by another name (hf, sky, aws, sbatch, sacct, scancel, python), as that one.

What they start really runs on this machine, in a session of its own. ``FAKE_SERVICE`` is the service's folder.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_SERVICE"])


def option(arguments: list[str], name: str) -> str:
    for number, argument in enumerate(arguments):
        if argument == name:
            return arguments[number + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""


def bucket(place: str) -> Path:
    scheme, found, path = place.partition("://")
    return HOME / scheme / path if found else Path(place)


def sync(source: str, target: str) -> None:
    shutil.copytree(bucket(source), bucket(target), dirs_exist_ok=True)


def start(name: str, command: str, log: Path | None = None) -> str:
    if os.environ.get("FAKE_SERVICE_DOWN"):
        sys.exit("the service is down")
    number = str(len(list(HOME.glob("job-*"))) + 1)
    folder = HOME / f"job-{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name)
    with (log or folder / "log").open("wb") as output:
        shell = f"( {command} ); echo $? > {folder}/status.part; mv {folder}/status.part {folder}/status"
        process = subprocess.Popen(
            ["bash", "-c", shell], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    (folder / "pid").write_text(str(process.pid))
    if os.environ.get("FAKE_SERVICE_CUTS"):  # the answer never comes, and the job was started all the same
        sys.exit("the connection was cut")
    return number


def jobs(name: str = "") -> list[tuple[str, str, str]]:
    """(number, name, state), the newest first."""
    found = []
    for folder in sorted(HOME.glob("job-*"), key=lambda path: int(path.name[4:]), reverse=True):
        called = (folder / "name").read_text()
        if name in ("", called):
            state = "running"
            if (folder / "cancelled").exists():
                state = "cancelled"
            elif (folder / "status").exists():
                state = "done" if (folder / "status").read_text().strip() == "0" else "failed"
            found.append((folder.name[4:], called, state))
    return found


def cancel(number: str) -> None:
    folder = HOME / f"job-{number}"
    (folder / "cancelled").touch()
    os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)


def log_of(number: str) -> None:
    print((HOME / f"job-{number}" / "log").read_text())


def python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "pip"]:
        return
    assert arguments[:4] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    os.execv(sys.executable, [sys.executable, *arguments[5:]])


def hf(arguments: list[str]) -> None:
    words = {"running": "RUNNING", "done": "COMPLETED", "failed": "ERROR", "cancelled": "CANCELED"}
    match arguments[:2]:
        case ["auth", "whoami"]:
            print(json.dumps({"user": "somebody", "orgs": None}))
        case ["buckets", "sync"]:
            sync(*arguments[2:4])
        case ["jobs", "run"]:
            command = arguments[-1]
            for number, argument in enumerate(arguments):
                if argument == "-v":
                    place, mount = arguments[number + 1].removesuffix(":rw").removesuffix(":ro").rsplit(":", 1)
                    command = command.replace(mount, str(bucket(place)))
            print(json.dumps({"id": start(option(arguments, "--name"), command), "url": "https://example.org"}))
        case ["jobs", "ls"]:
            found = jobs(option(arguments, "--name"))
            print(json.dumps([{"job_id": job, "name": name, "status": words[state]} for job, name, state in found]))
        case ["jobs", "logs"]:
            log_of(arguments[-1])
        case ["jobs", "cancel"]:
            cancel(arguments[-1])


def sky(arguments: list[str]) -> None:
    words = {"running": "RUNNING", "done": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELLED"}
    match arguments[1]:
        case "launch":
            task = json.loads(Path(arguments[-1]).read_text())
            assert task["setup"].endswith("'peft>=0.18'")
            mounted = str(bucket(task["file_mounts"]["/dspy-ft"]["source"]))
            start(option(arguments, "-n"), task["run"].replace("/dspy-ft/", f"{mounted}/"))
        case "queue":
            print("some words of the client's")
            print(json.dumps([{"job_id": int(job), "job_name": n, "status": words[s]} for job, n, s in jobs()]))
        case "logs":
            log_of(arguments[-1])
        case "cancel":
            cancel(arguments[-1])


def aws(arguments: list[str]) -> None:
    sync(*arguments[-2:])


def sbatch(arguments: list[str]) -> None:
    log = Path(option(arguments, "--output"))
    print(start(option(arguments, "--job-name"), option(arguments, "--wrap"), log))


def sacct(arguments: list[str]) -> None:
    words = {"running": "RUNNING", "done": "COMPLETED", "failed": "OUT_OF_MEMORY", "cancelled": "CANCELLED by 1000"}
    for job, _, state in jobs(option(arguments, "--name")):
        print(f"{job}|{words[state]}")


def scancel(arguments: list[str]) -> None:
    for job, _, state in jobs(option(arguments, "--name")):
        if state == "running":
            cancel(job)


if __name__ == "__main__":
    with (HOME / "calls.txt").open("a") as calls:
        calls.write(f"{Path(sys.argv[0]).name} {' '.join(sys.argv[1:3])}\n")
    globals()[Path(sys.argv[0]).name](sys.argv[1:])
