"""Compiled, wrapped and threaded models, loops of the user's own, and calls that must be refused."""

import pickle
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from transformers import GenerationMixin

from lmms_steer import SteeringError, UserError, continuation, steer
from lmms_steer.steering.anatomy import model_facts
from lmms_steer.steering.cache_argument import CACHE_NAMES, cache_name
from lmms_steer.steering.calls import CallTracker
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.hooks import attach
from lmms_steer.steering.intervention import PHASES
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.spec import SteeringSpec
from tests.helpers.models import vectors
from tests.steering.reference import ALPHA, LAYER, V, line, logits, positions
from tests.steering.test_ways_of_running import GENERATE, NEW, SPECIAL, llama, text_prompts

BATCH = text_prompts(2, 7, 0)


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def resolved_for(model: Any) -> ResolvedSpec:
    return resolve(SteeringSpec.parse(line("text", "all")), model_facts(model), {"v": V})


def test_sites_inside_of_layers_that_run_twice_are_refused() -> None:
    model = llama().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    given: dict[str, Any] = {"layer": LAYER, "alpha": ALPHA, "tokens": "both"}
    for site in ("mlp", "attention"):
        refused = f"site={site}: with gradient checkpointing the layers run again"
        with pytest.raises(UserError, match=refused), steer(model, V, site=site, **given):
            pass

    def gradient() -> Tensor:
        model.zero_grad()
        with steer(model, V, **given):
            model(**BATCH, labels=BATCH["input_ids"], use_cache=False).loss.backward()
        found: Tensor = model.model.layers[0].mlp.up_proj.weight.grad.clone()
        return found

    twice = gradient()
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(twice, gradient())


def test_hidden_states_are_the_steered_ones_and_blocks_act_from_the_outermost_on() -> None:
    model = llama()

    def states() -> tuple[Tensor, ...]:
        with torch.no_grad():
            found: tuple[Tensor, ...] = model(**BATCH, output_hidden_states=True).hidden_states
        return found

    # transformers' own hooks record from now on, before any that is added later
    plain = states()
    given: dict[str, Any] = {"layer": LAYER, "tokens": "both"}
    unit = torch.from_numpy(V[LAYER]).float() / float(torch.from_numpy(V[LAYER]).norm())
    with steer(model, V, alpha=ALPHA, **given), steer(model, V, alpha=1.0, operation="ablate", **given):
        both = states()[LAYER + 1]
    with steer(model, V, alpha=1.0, operation="ablate", **given), steer(model, V, alpha=ALPHA, **given):
        other = states()[LAYER + 1]
    seen = BATCH["attention_mask"].bool()
    assert (both @ unit)[seen].abs().max() < 1e-4, "added, then ablated"
    expected = plain[LAYER + 1] - (plain[LAYER + 1] @ unit)[..., None] * unit + ALPHA * torch.from_numpy(V[LAYER])
    torch.testing.assert_close(other[seen], expected[seen].float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states(), plain)


def last_logits(model: Any, **more: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**BATCH, **more).logits[:, -1]
    return found


def expected_last(model: Any, tokens: str = "text") -> Tensor:
    """The reference's logits for the token after the prompt."""
    one = torch.cat([BATCH["input_ids"], torch.full((2, 1), 5)], 1)
    return logits(model, BATCH, one, tokens, "prefill", SPECIAL)[:, 0]


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() < 1e-4)


def compiled_whole(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def compiled_copy(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def compiled_parts(model: Any) -> Any:
    model.get_decoder().compile(backend="eager")
    for layer in model.get_decoder().layers:
        layer.compile(backend="eager")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [compiled_whole, compiled_copy, compiled_parts])
def test_a_compiled_model_is_steered_and_is_itself_again_afterwards(compiled: Any) -> None:
    plain = llama(2)
    made = compiled(llama(2))
    before = last_logits(made)
    with steer(made, line("text", "prefill"), {"v": V}):
        assert close(last_logits(made), expected_last(plain))
    assert torch.equal(last_logits(made), before)
    with steer(made, line("text", "prefill"), {"v": V}):
        assert close(last_logits(made), expected_last(plain))


@pytest.mark.slow
def test_a_model_that_is_compiled_while_it_is_steered_is_unsteered_afterwards() -> None:
    model = llama(2)
    before, expected = last_logits(model), expected_last(model)
    with steer(model, line("text", "prefill"), {"v": V}):
        inside = torch.compile(model, backend="eager")
        assert close(last_logits(inside), expected)
    assert close(last_logits(inside), before)


def test_blocks_that_overlap_restore_the_compiler_when_the_last_one_ends(model: Any) -> None:
    resolved = resolved_for(model)
    first, second = attach(model, resolved), attach(model, resolved)
    first.remove()
    first.remove()
    assert torch._dynamo.eval_frame._stance.stance == "force_eager" and second and not first
    second.remove()


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrapped", ["peft", "DataParallel", "DistributedDataParallel"])
def test_a_wrapped_model_is_steered(model: Any, wrapped: str) -> None:
    import peft

    plain, inner = model, llama()
    made: Any = (
        peft.get_peft_model(inner, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=True))
        if wrapped == "peft"
        else getattr(nn.parallel, wrapped)(inner)
    ).eval()
    with steer(made, line("text", "prefill"), {"v": V}):
        assert close(last_logits(made), expected_last(plain))
        generating = made if wrapped == "peft" else made.module
        output = generating.generate(**BATCH, **GENERATE)
    expected = logits(plain, BATCH, output.sequences, "text", "prefill", SPECIAL)
    assert close(torch.stack(output.logits, 1), expected)


def test_copies_on_several_devices_are_refused(model: Any) -> None:
    with steer(model, line("text", "prefill"), {"v": V}):
        # what DataParallel does on two GPUs
        replica = model._replicate_for_data_parallel()
        for name, child in model._modules.items():
            setattr(replica, name, child)
        with pytest.raises(SteeringError, match="DataParallel on several devices"):
            replica(**BATCH)


@pytest.mark.parametrize("work", ["forward", "generate"])
def test_threads_share_a_model_without_mixing_their_calls(model: Any, work: str) -> None:
    batches = [text_prompts(rows, width, seed) for seed, (rows, width) in enumerate([(1, 5), (3, 9), (2, 12), (4, 3)])]
    outputs: dict[int, Any] = {}
    barrier = Barrier(len(batches))

    def run(number: int, batch: dict[str, Tensor]) -> None:
        barrier.wait()
        for _ in range(6):
            if work == "generate":
                outputs[number] = model.generate(**batch, **GENERATE, use_cache=bool(number % 2))
            else:
                with torch.no_grad(), continuation(number % 3):
                    outputs[number] = model(**batch).logits

    with steer(model, line("last", "all"), {"v": V}):
        threads = [Thread(target=run, args=pair) for pair in enumerate(batches)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, batch in enumerate(batches):
        if work == "generate":
            expected = logits(model, batch, outputs[number].sequences, "last", "all", SPECIAL)
            assert close(torch.stack(outputs[number].logits, 1), expected)
            continue
        ids, real = batch["input_ids"], batch["attention_mask"]
        chosen = positions(ids, real, ids.shape[1] - number % 3, "last", "all", -1, SPECIAL)
        assert close(outputs[number], forward_steered_at(model, batch, chosen))


def forward_steered_at(model: Any, batch: dict[str, Tensor], chosen: Tensor) -> Tensor:
    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        return torch.where(chosen.unsqueeze(-1), output + ALPHA * torch.from_numpy(V[LAYER]), output)

    handle = model.get_decoder().layers[LAYER].register_forward_hook(add)
    with torch.no_grad():
        found: Tensor = model(**batch).logits
    handle.remove()
    return found


@pytest.mark.parametrize("phase", PHASES)
def test_a_loop_of_the_users_own_says_what_it_feeds_to_the_cache(model: Any, phase: str) -> None:
    """A prompt in two pieces, then two generated tokens, all with one mask that was made in advance and is sliced."""
    length = BATCH["input_ids"].shape[1]
    sequences = torch.cat([BATCH["input_ids"], torch.tensor([[5, 6, 7], [8, 4, 3]])], 1)
    mask = torch.cat([BATCH["attention_mask"], torch.ones(2, 3, dtype=torch.long)], 1)
    found = []
    with steer(model, line("text", phase), {"v": V}), torch.no_grad():
        first = model(input_ids=sequences[:, :4], attention_mask=mask[:, :4])
        with continuation(0):
            second = model(
                input_ids=sequences[:, 4:length], attention_mask=mask[:, :length], past_key_values=first.past_key_values
            )
        found.append(second.logits[:, -1])
        for column in (length, length + 1):
            with continuation(1):
                step = model(
                    input_ids=sequences[:, column : column + 1],
                    attention_mask=mask[:, : column + 1],
                    past_key_values=second.past_key_values,
                )
            found.append(step.logits[:, -1])
    expected = logits(model, BATCH, sequences, "text", phase, SPECIAL)
    assert close(torch.stack(found, 1), expected)


@pytest.mark.parametrize(("tokens", "phase"), [("text", "prefill"), ("both", "decode"), ("last", "all")])
def test_a_call_after_a_filled_cache_that_says_nothing_is_refused(model: Any, tokens: str, phase: str) -> None:
    with steer(model, line(tokens, phase), {"v": V}), torch.no_grad():
        cache = model(**BATCH).past_key_values
        mask = torch.cat([BATCH["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
        with pytest.raises(SteeringError, match=r"nothing says whether .* lmms_steer.continuation\(n\)"):
            model(input_ids=torch.tensor([[5], [6]]), attention_mask=mask, past_key_values=cache)


def test_a_forward_call_without_a_cache_is_prompt_even_if_it_is_one_token_longer_than_the_last(model: Any) -> None:
    longer = {key: torch.cat([value, torch.ones(2, 1, dtype=torch.long) * 4], 1) for key, value in BATCH.items()}
    longer["attention_mask"][:, -1] = 1
    with steer(model, line("text", "prefill"), {"v": V}), torch.no_grad():
        model(**BATCH, use_cache=False)
        found = model(**longer, use_cache=False).logits
    assert close(found, forward_steered_at(model, longer, longer["attention_mask"].bool()))


@pytest.mark.parametrize("options", [{"use_cache": False}, {}])
def test_a_generate_that_was_kept_from_before_is_exact_or_refused(model: Any, options: dict[str, Any]) -> None:
    with steer(model, line("text", "all"), {"v": V}):
        # as it was before it was wrapped
        kept = vars(GenerationMixin)["generate"].__wrapped__.__get__(model)
        output = kept(**BATCH, **GENERATE, **options)
    expected = logits(model, BATCH, output.sequences, "text", "all", SPECIAL)
    assert close(torch.stack(output.logits, 1), expected)
    for tokens, phase in (("text", "prefill"), ("text", "decode"), ("last", "all")):
        refused = pytest.raises(SteeringError, match="taken from the model before it was steered")
        with refused, steer(model, line(tokens, phase), {"v": V}):
            kept(**BATCH, **GENERATE, **options)


@pytest.mark.parametrize("only_new", [False, True])
def test_generate_goes_on_from_a_cache(model: Any, only_new: bool) -> None:
    """A second turn: the prompt is what `generate` is given, of which the cache holds the beginning."""
    ids = text_prompts(1, 9, 3)["input_ids"]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with steer(model, line("text", "prefill"), {"v": V}):
        cache = model.generate(ids[:, :5], max_new_tokens=1, return_dict_in_generate=True).past_key_values
        given = {**batch, "input_ids": ids[:, 5:]} if only_new else batch
        output = model.generate(**given, **GENERATE, past_key_values=cache)
    sequences = torch.cat([ids, output.sequences[:, -NEW:]], 1)
    assert close(torch.stack(output.logits, 1), logits(model, batch, sequences, "text", "prefill", SPECIAL))


def test_a_model_that_drafts_for_itself_is_steered(model: Any) -> None:
    ids = text_prompts(1, 9, 3)["input_ids"]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with steer(model, line("text", "decode"), {"v": V}):
        output = model.generate(**batch, **GENERATE, assistant_early_exit=2, do_sample=False)
    assert close(torch.stack(output.logits, 1), logits(model, batch, output.sequences, "text", "decode", SPECIAL))


def test_an_own_generate_that_changes_the_prompt_is_steered_by_the_prompt_that_it_passes_on() -> None:
    class Greeting(type(llama())):  # type: ignore[misc]
        def generate(self, input_ids: Tensor, **kwargs: Any) -> Any:
            ids = torch.cat([torch.full((len(input_ids), 2), 2), input_ids], 1)
            kwargs["attention_mask"] = torch.ones_like(ids)
            return super().generate(input_ids=ids, **kwargs)

    plain = llama()
    made = Greeting(plain.config).eval()
    made.load_state_dict(plain.state_dict())
    ids = text_prompts(1, 5, 3)["input_ids"]
    with steer(made, line("text", "all"), {"v": V}):
        output = made.generate(input_ids=ids, **GENERATE)
    whole = torch.cat([torch.full((1, 2), 2), ids], 1)
    batch = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    assert close(torch.stack(output.logits, 1), logits(plain, batch, output.sequences, "text", "all", SPECIAL))


def test_padding_that_generate_infers_itself_is_not_the_last_token(model: Any) -> None:
    """Without an attention mask, transformers takes pad tokens for padding, here with a cache that gets 4D masks."""
    with steer(model, line("both", "prefill"), {"v": V}):
        output = model.generate(BATCH["input_ids"], **GENERATE, cache_implementation="static")
    expected = logits(model, BATCH, output.sequences, "both", "prefill", SPECIAL)
    assert close(torch.stack(output.logits, 1), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": 1.5}, "guidance_scale=1.5"),
        ({"cache_implementation": "paged"}, "continuous batching cannot be steered"),
    ],
)
def test_ways_of_generating_that_run_other_prompts_are_refused(model: Any, options: Any, message: str) -> None:
    with steer(model, line("text", "prefill"), {"v": V}), pytest.raises(SteeringError, match=message):
        model.generate(**BATCH, max_new_tokens=1, **options)


def test_generate_without_input_ids_and_steered_assistants_are_refused(model: Any) -> None:
    embedded = model.get_input_embeddings()(BATCH["input_ids"])
    with steer(model, line("text", "prefill"), {"v": V}):
        with pytest.raises(SteeringError, match="input_ids"):
            model.generate(inputs_embeds=embedded, max_new_tokens=2)
        with pytest.raises(SteeringError, match="cannot be another model's assistant"):
            llama().generate(BATCH["input_ids"][:1], assistant_model=model, max_new_tokens=2)


def test_a_generate_that_was_replaced_is_refused() -> None:
    made = llama()
    made.generate = partial(print, model=made)
    with pytest.raises(UserError, match="its generate was replaced"), steer(made, line("text", "all"), {"v": V}):
        pass


def test_continuous_batching_is_refused(model: Any) -> None:
    with steer(model, line("text", "prefill"), {"v": V}), pytest.raises(SteeringError, match="continuous batching"):
        model(**BATCH, cu_seq_lens_q=torch.tensor([0, 7]))


def test_paper_targets_need_the_special_tokens(model: Any) -> None:
    refused = pytest.raises(UserError, match="special_ids=tokenizer.all_special_ids")
    with refused, steer(model, line("text_paper", "prefill"), {"v": V}):
        pass


def test_a_mask_that_does_not_show_the_padding_is_refused_where_the_last_token_counts(model: Any) -> None:
    mask = torch.zeros(2, 1, 7, 7)
    refused = pytest.raises(SteeringError, match="pass a 2D mask")
    with torch.no_grad(), steer(model, line("last", "prefill"), {"v": V}), refused:
        model(input_ids=BATCH["input_ids"], attention_mask=mask)


def test_encoder_decoder_models_are_refused() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    made = BartForConditionalGeneration(
        BartConfig(vocab_size=90, d_model=48, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4,
                   decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48)
    )  # fmt: skip
    with pytest.raises(UserError, match="it is an encoder-decoder"), steer(made, line("text", "all"), {"v": V}):
        pass


@pytest.mark.parametrize(("alpha", "message"), [(1e6, "overflows float16"), (1e-9, "is zero in float16")])
def test_strengths_that_float16_cannot_hold_are_refused(alpha: float, message: str) -> None:
    made = llama().half()
    with pytest.raises(UserError, match=message), steer(made, line("text", "all", alpha), {"v": V}):
        pass


def test_a_sum_that_overflows_float16_is_refused() -> None:
    made = llama().half()
    direction = torch.from_numpy(V[LAYER])
    place = int(direction.argmax())
    with torch.no_grad(), steer(made, line("text", "all", 40000 / float(direction[place])), {"v": V}):
        made.get_input_embeddings().weight[:, place] = 40000
        with pytest.raises(SteeringError, match="residual of layer 1 overflows float16"):
            made(**BATCH)


def test_an_error_that_a_caller_swallows_is_kept(model: Any) -> None:
    resolved = resolved_for(model)
    seen: list[SteeringError] = []
    attached = attach(model, resolved, on_failure=seen.append)
    try:
        assert attached.failure is None
        with suppress(Exception):
            model(inputs_embeds=model.get_input_embeddings()(BATCH["input_ids"]))
        assert seen and attached.failure is seen[0]
    finally:
        attached.remove()


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_found_by_its_name_in_each_release_of_transformers(model: Any, name: str) -> None:
    """transformers 5.24 calls `cache` what earlier releases call `past_key_values`."""
    prompt, tracker = BATCH["input_ids"].shape[1], CallTracker(model)
    with continuation(1), torch.no_grad():
        tracker.before(model, (), {"input_ids": torch.tensor([[5], [6]]), name: model(**BATCH).past_key_values})
    assert tracker.call is not None and (tracker.call.offset, tracker.call.all_generated) == (prompt, True)
    tracker.after(model, (), None)
    module = nn.Module()
    module.forward = {"cache": lambda cache=None: cache, "past_key_values": lambda past_key_values=None: None}[name]
    assert cache_name(module) == name


@pytest.mark.parametrize("duplicate", [deepcopy, pickle.dumps])
def test_a_steered_model_is_not_copied_with_its_hooks(model: Any, duplicate: Any) -> None:
    with (
        steer(model, line("text", "all"), {"v": V}),
        pytest.raises(SteeringError, match="cannot be copied or pickled"),
    ):
        duplicate(model)
    with torch.no_grad():
        assert torch.equal(deepcopy(model)(**BATCH).logits, model(**BATCH).logits)


def test_a_spec_that_was_resolved_for_a_model_of_another_width_is_refused(model: Any) -> None:
    narrow = vectors(4, 8)
    other = resolve(SteeringSpec.parse(line("text", "all")), ModelFacts("other", 4, 8), {"v": narrow})
    with (
        pytest.raises(UserError, match="vector 'v' has width 8, but LlamaForCausalLM's hidden size is 48"),
        steer(model, other),
    ):
        pass
    # where a layer has another width than the config says
    attached = attach(model, other)
    try:
        with pytest.raises(SteeringError, match=f"layer {LAYER} has the width 48 at site=residual, and the vector 8"):
            last_logits(model)
    finally:
        attached.remove()


def test_a_generate_that_outlives_the_block_is_an_error(model: Any) -> None:
    first, left = Event(), Event()
    shown: list[Tensor] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            shown.append(value)
            first.set()
            assert left.wait(60)

        def end(self) -> None:
            pass

    caught: list[BaseException] = []

    def run() -> None:
        try:
            model.generate(**text_prompts(1, 5, 0), max_new_tokens=4, streamer=Streamer())
        except SteeringError as error:
            caught.append(error)

    thread = Thread(target=run)
    with steer(model, line("last", "all"), {"v": V}):
        thread.start()
        assert first.wait(60)
    left.set()
    thread.join()
    (error,) = caught
    assert "the steer block ended while generate ran in another thread" in str(error)
    # the prompt alone: no token that was made without steering is shown
    assert len(shown) == 1
