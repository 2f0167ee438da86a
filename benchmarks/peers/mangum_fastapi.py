"""FastAPI behind Mangum, without logs or metrics.

In the peer's favour: `async def`, so no thread is entered (FastAPI's first advice for work like
this is `def`); a return type, which FastAPI serialises in Rust; no lifespan; no middleware.
"""

from fastapi import FastAPI
from mangum import Mangum

from benchmarks.peers.schema import Answer, Body, score

app = FastAPI()


@app.post("/predict")
async def predict(body: Body) -> Answer:
    return score(body.instances)


lambda_handler = Mangum(app, lifespan="off")
