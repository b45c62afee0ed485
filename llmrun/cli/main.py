"""The command line: its commands, and what every one of them does with an error.

Nothing heavy is imported here: `llmrun --help` must cost no more than any small program's.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from typing import Annotated

import typer

from llmrun.cli import doctor_options as do
from llmrun.cli import options as o
from llmrun.cli import serve_options as so
from llmrun.cli import tune_options as to
from llmrun.cli.answering import Answering
from llmrun.cli.asking import Asking
from llmrun.cli.caching import Caching, EmptyCache
from llmrun.cli.first import INTERRUPTED
from llmrun.cli.flags import Output, Running
from llmrun.cli.flat import flat
from llmrun.cli.history import history_app
from llmrun.cli.keeping import Keeping
from llmrun.cli.lend_options import LendOptions
from llmrun.cli.machine_options import MachineOptions
from llmrun.cli.misuse import Commands
from llmrun.cli.prompt import prompt_app
from llmrun.cli.prompting import Prompting
from llmrun.cli.serve_gate import Gate
from llmrun.cli.serve_models import Kept
from llmrun.cli.serve_options import Served, ServedHow, Where
from llmrun.errors import LLMRunError

app = typer.Typer(
    name="llmrun",
    cls=Commands,
    help="Run language models on your own machine: on the CPU, the GPU, or both.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_GUIDE = "guide"  # the embedded model, where no other is named or chosen


def _show_version(wanted: bool) -> None:
    if wanted:
        from llmrun import __version__

        typer.echo(f"llmrun {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@flat
def chat(
    running: Running,
    answering: Answering,
    prompting: Prompting,
    keeping: Keeping,
    output: Output,
    model: o.ChatModel = None,
) -> None:
    """Talk with a model. Without a terminal: one message a line, answers on stdout."""
    from llmrun.cli.chatting import run_chat
    from llmrun.cli.running import wish_of

    if (chosen := prompting.chosen()) is not None:
        chosen.check_chat()
        answering = chosen.answering(answering)
    run_chat(wish_of(model or _GUIDE, running, answering, output), keeping, named=model is not None)


@app.command()
@flat
def run(
    model: o.Model,
    asking: Asking,
    running: Running,
    answering: Answering,
    prompting: Prompting,
    caching: Caching,
    output: Output,
    prompt: o.Prompt = None,
) -> None:
    """Answer once. Only the answer goes to stdout, so that it can be piped on."""
    from llmrun.cli.once import run_once
    from llmrun.cli.running import wish_of

    if (chosen := prompting.chosen()) is not None:
        answering = chosen.answering(answering)
    run_once(wish_of(model, running, answering, output), asking, caching, prompt, chosen)


@app.command()
@flat
def serve(
    where: Where,
    served: ServedHow,
    gate: Gate,
    kept: Kept,
    context: typer.Context,
    models: Served = None,
    emit: so.EmitServer = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Serve models to many clients at once, by the APIs of OpenAI, Anthropic and Ollama."""
    from llmrun.cli.names import check_names

    names = tuple(models or (_GUIDE,))
    check_names((*names, *kept.pins))  # before the server is imported, which takes a second
    from llmrun.cli.serving import ServeWish, run_serve
    from llmrun.server.serving import Address

    how, address = (served.constraints(), served.plan_wish()), Address(where.host, where.port)
    meant = ServeWish(names, *how, address, served.offline, quiet, verbose, kept, gate)
    if emit is None:
        run_serve(meant)
        return
    from llmrun.cli.given import given_options
    from llmrun.cli.serve_emit import run_emit

    run_emit(emit, given_options(context), meant)


@app.command()
def ps(json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """List the servers that are running, and the models they have loaded."""
    from llmrun.cli.processes import run_ps

    run_ps(as_json=json, quiet=quiet)


@app.command()
def stop(
    models: so.Stopped = None, port: so.StopPort = None, every: so.StopAll = False, quiet: o.Quiet = False
) -> None:
    """Unload models from a running server; without MODEL: end the server, answers may finish."""
    from llmrun.cli.stopping import StopWish, run_stop

    run_stop(StopWish(tuple(models or ()), port, every, quiet))


@app.command()
@flat
def lend(options: LendOptions, json: o.PlainJson = False, quiet: o.Quiet = False, verbose: o.Verbose = False) -> None:
    """Lend this machine's devices to another one, for models too large for either."""
    from llmrun.cli.lending import LendWish, run_lend

    run_lend(LendWish(options, json, quiet, verbose))


@app.command()
def plan(
    model: o.Model,
    ctx: o.Ctx = None,
    gpu_layers: o.GpuLayers = None,
    kv_type: o.KVType = None,
    threads: o.Threads = None,
    speculate: o.Speculate = None,
    draft: o.Draft = None,
    parallel: o.Parallel = None,
    device: o.Devices = None,
    lora: o.Loras = None,
    projector: o.Projector = None,
    prefer: o.Prefer = None,
    allow_disk: o.AllowDisk = False,
    reserve: o.Reserve = None,
    device_reserve: o.DeviceReserve = None,
    require_gpu: o.RequireGpu = False,
    offline: o.Offline = False,
    on: o.On = None,
    save: o.Save = None,
    emit: o.Emit = None,
    plot: o.Plot = None,
    exact: o.Exact = False,
    fast: o.Fast = False,
    json: o.PlainJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Show how a model would be run on this machine, and why so, before anything of it is loaded."""
    from llmrun.cli.planning import PlanRequest, chosen_source, run_plan
    from llmrun.cli.wishes import constraints_of, drafted, plan_wish

    wish = plan_wish(
        prefer,
        allow_disk=allow_disk,
        reserve=reserve,
        device_reserve=device_reserve,
        require_gpu=require_gpu,
        source=chosen_source(exact=exact, fast=fast),
    )
    said = constraints_of(ctx, gpu_layers, kv_type, threads, parallel, device, lora, speculate)
    constraints = drafted(replace(said, projector=projector), draft)
    run_plan(PlanRequest(model, constraints, wish, on, save, emit, plot, offline, json, quiet))


@app.command()
def show(
    model: o.Model,
    ctx: o.Ctx = None,
    kv_type: o.KVType = None,
    device: o.Devices = None,
    prefer: o.Prefer = None,
    reserve: o.Reserve = None,
    device_reserve: o.DeviceReserve = None,
    offline: o.Offline = False,
    exact: o.EveryHeader = False,
    plot: o.Plot = None,
    json: o.PlainJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Show every quantization of a model, what it would take here, and which one would be run."""
    from llmrun.cli.showing import ShowRequest, run_show
    from llmrun.cli.wishes import constraints_of, plan_wish

    constraints = constraints_of(ctx, None, kv_type, None, None, device)
    wish = plan_wish(prefer, reserve=reserve, device_reserve=device_reserve)
    run_show(ShowRequest(model, constraints, wish, exact, plot, offline, json, quiet))


@app.command()
def search(words: o.Words, limit: o.Limit = 15, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Find models on the Hub."""
    from llmrun.cli.searching import run_search

    run_search(" ".join(words), limit, as_json=json, quiet=quiet)


@app.command()
def pull(
    model: o.Model,
    ctx: o.Ctx = None,
    device: o.Devices = None,
    prefer: o.Prefer = None,
    local_dir: o.LocalDir = None,
    json: o.PlainJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Fetch a model: the quantization that is named, else the one that would be run here."""
    from llmrun.cli.pulling import PullRequest, run_pull
    from llmrun.cli.wishes import constraints_of, plan_wish

    constraints = constraints_of(ctx, None, None, None, None, device)
    run_pull(PullRequest(model, constraints, plan_wish(prefer), local_dir, offline=False, json=json, quiet=quiet))


@app.command()
def inspect(model: o.Model, offline: o.Offline = False, json: o.PlainJson = False) -> None:
    """Show what a model's file says of itself."""
    from llmrun.cli.inspecting import run_inspect

    run_inspect(model, offline=offline, as_json=json)


@app.command()
def estimate(
    params: o.Params,
    bits: o.Bits = "16",
    seq: o.Seq = 4096,
    batch: o.Batch = 1,
    layers: o.Layers = None,
    heads: o.Heads = None,
    kv_heads: o.KVHeads = None,
    hidden: o.Hidden = None,
    method: o.Method = "all",
    json: o.PlainJson = False,
) -> None:
    """Estimate what a model takes from its parameter count: rules of thumb, and what llama.cpp needs."""
    from llmrun.cli.estimated import run_estimate
    from llmrun.cli.estimating import EstimateWish

    run_estimate(EstimateWish(params, bits, seq, batch, layers, heads, kv_heads, hidden, method), as_json=json)


@app.command()
@flat
def hardware(options: MachineOptions, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Show this machine as llmrun sees it: memory, processor, devices, and those that others lend."""
    from llmrun.cli.hardware import run_hardware

    run_hardware(options, as_json=json, quiet=quiet)


@app.command()
def tune(
    model: o.Model,
    threads: o.Threads = None,
    device: o.Devices = None,
    seconds: to.Seconds = None,
    forget: to.Forget = False,
    offline: o.Offline = False,
    json: o.PlainJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Find out by timing what is fastest for a model on this machine, once, and remember it."""
    from llmrun.cli.tuning import TuneRequest, run_tune
    from llmrun.cli.wishes import constraints_of

    constraints = constraints_of(None, None, None, threads, None, device)
    run_tune(TuneRequest(model, constraints, seconds, forget, offline, json, quiet))


@app.command()
def doctor(
    fix: do.Fix = False,
    backend: do.Backend = None,
    prebuilt: do.Prebuilt = False,
    yes: do.Yes = False,
    report: do.ReportFile = None,
    json: o.PlainJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Say what is wrong with this machine or the engine, and put the engine right."""
    from llmrun.cli.doctoring import DoctorWish, run_doctor

    run_doctor(DoctorWish(fix, backend, prebuilt, yes, report, json, quiet))


@app.command(name="list")
def list_models(json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """List the models on this machine: llmrun's, and those that other programs keep."""
    from llmrun.cli.listing import run_list

    run_list(as_json=json, quiet=quiet)


@app.command()
def rm(
    model: o.KeptOrNone = None,
    unfinished: o.Unfinished = False,
    cache: EmptyCache = False,
    yes: o.YesRemove = False,
    json: o.PlainJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Remove a model that llmrun fetched, or what is there of one, after asking; or, unasked, what models had read."""
    from llmrun.cli.removing import RemoveWish, run_remove

    run_remove(RemoveWish(model, unfinished, cache, yes, json, quiet))


@app.command()
def verify(model: o.Kept, json: o.PlainJson = False, quiet: o.Quiet = False) -> None:
    """Check the files of a model on this machine against their checksums."""
    from llmrun.cli.verifying import run_verify

    run_verify(model, as_json=json, quiet=quiet)


app.add_typer(history_app, name="history")
app.add_typer(prompt_app, name="prompt")


def _completion() -> contextlib.AbstractContextManager[None]:
    """What is different where a shell asks how a line may go on."""
    if "_LLMRUN_COMPLETE" not in os.environ:
        return contextlib.nullcontext()
    from llmrun.cli.completing import bash_words

    return bash_words(os.environ)


def main() -> None:
    """Run the command line and leave with its exit code."""
    from llmrun.console import Console, utf8_streams

    with utf8_streams(), _completion():
        try:
            app()
        except LLMRunError as error:
            Console().error(error)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except OSError as error:  # what cannot be written; a pipe that nobody reads any more ends typer silently
            Console().error(LLMRunError(f"the output cannot be written: {error.strerror}"))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
            sys.exit(1)


if __name__ == "__main__":
    from llmrun.cli.first import begin_worker

    begin_worker()
    main()
