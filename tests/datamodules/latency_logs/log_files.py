"""Small logs in each tool's format, written as the tool writes them."""

from __future__ import annotations

import json

START_NS = 1_795_338_092_055_582_572


def bench(**changes):
    """vLLM's columns: in order, a chunk a token; two tokens a chunk; nothing at all; failed after one chunk."""
    columns = {
        "input_lens": [5, 6, 7, 8],
        "output_lens": [3, 4, 0, 0],
        "ttfts": [0.5, 0.25, 0.0, 1.5],
        "itls": [[0.25, 0.5], [0.5], [], []],
        "errors": ["", "", "", "Traceback\n..."],
    }
    return {"date": "20250101", "backend": "vllm", "duration": 4.0, "completed": 3, **columns, **changes}


def vllm(path, **changes):
    path.write_text(json.dumps({k: v for k, v in bench(**changes).items() if v is not None}))
    return path


def sglang(path, runs=1, **changes):
    """One run a line, with the literal Infinity and the answers' texts."""
    run = bench(backend="sglang", request_rate=float("inf"), generated_texts=["größer, ] } {", "", "", ""], **changes)
    path.write_text("".join(json.dumps(run, ensure_ascii=False) + "\n" for _ in range(runs)), encoding="utf-8")
    return path


def aiperf_row(start_s=0.0, ttft=(500.0, "ms"), gaps=((250.0, 500.0), "ms"), tokens=3, error=None, **metadata):
    metrics = {"input_sequence_length": {"value": 5, "unit": "tokens"}}
    if ttft:
        metrics["time_to_first_token"] = {"value": ttft[0], "unit": ttft[1]}
    if gaps:
        metrics["inter_chunk_latency"] = {"value": list(gaps[0]), "unit": gaps[1]}
    if tokens is not None:
        metrics["output_sequence_length"] = {"value": tokens, "unit": "tokens"}
    start = START_NS + round(start_s * 1e9)
    known = {"x_request_id": f"r{start_s}", "request_start_ns": start, "benchmark_phase": "profiling"}
    return {"metadata": {**known, "was_cancelled": False, **metadata}, "metrics": metrics, "error": error}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def aiperf(path):
    """Units ms, us, ns and s; one spread; a cancelled one; a failed one; a warm-up."""
    cancelled = {"code": 499, "type": "RequestCancellationError", "message": "stopped"}
    return lines(
        path,
        [
            aiperf_row(-9.0, benchmark_phase="warmup"),
            aiperf_row(0.0),
            aiperf_row(0.500000001, ttft=(250_000.0, "us"), gaps=((500_000_000.0,), "ns"), tokens=4),
            aiperf_row(1.0, ttft=(0.5, "s"), gaps=None, tokens=None, error=cancelled, was_cancelled=True),
            aiperf_row(2.0, ttft=None, gaps=None, tokens=None, error={"code": 500, "message": "no"}),
        ],
    )


def inference_perf_row(start, times, tokens=None, nested=False, error=None):
    answer = {"output_tokens": len(times) if tokens is None else tokens}
    answer["output_token_times"] = [start + t for t in times]
    info = {"input_tokens": 5, **({"response_metrics": answer} if nested else answer)}
    return {"start_time": start, "end_time": start + 9, "request": '{"a": [1]}', "info": info, "error": error}


def inference_perf(path):
    rows = [
        inference_perf_row(64.0, [0.5, 0.75, 1.25]),
        inference_perf_row(65.0, [0.25, 0.75], tokens=4, nested=True),
        inference_perf_row(66.0, [0.5], tokens=0, error={"error_type": "TimeoutError", "error_msg": "late"}),
    ]
    path.write_text(json.dumps(rows, indent=1))
    return path


def etalon(path, **changes):
    columns = {
        "num_prompt_tokens": [5, 6, 7],
        "num_output_tokens": [3, 4, 0],
        "num_total_tokens": [8, 10, 7],
        "tpot": [0.375, 0.5, 0],
        "ttft": [0.5, 0.25, 0],
        "tbt": [[0.25, 0.5], [0.5], []],
    }
    path.write_text(json.dumps({**columns, **changes}))
    return path


def llmperf(path):
    row = {"error_code": None, "inter_token_latency_s": 0.02, "ttft_s": 0.4, "end_to_end_latency_s": 2.9}
    path.write_text(json.dumps([row]))
    return path


def lifecycle(path):
    times = {"arrival_time": 1.0, "first_token_ts": 4.5, "last_token_ts": 5.5}
    return lines(path, [{"request_id": "bench-0", "input_toks": 3, "output_toks": 4, **times}])


def own_row(**changes):
    row = {"request_id": "a", "submit_s": 0.0, "token_s": [0.5, 0.75], "input_tokens": 5, "output_tokens": 2}
    return {**row, "expected_tokens": None, "status": "ok", "error": "", **changes}
