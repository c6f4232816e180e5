"""`client.py PORT PROMPT ARGS`: one image from a WebUI by the Python client webuiapi, printed as JSON."""

import base64
import io
import json
import sys

import webuiapi

port, prompt, args = sys.argv[1:]
api = webuiapi.WebUIApi(host="127.0.0.1", port=int(port))
result = api.txt2img(
    prompt=prompt,
    steps=3,
    width=64,
    height=64,
    sampler_name="Euler",
    seed=5,
    cfg_scale=6,
    alwayson_scripts={"Personalized Residuals": {"args": json.loads(args)}},
)
buffer = io.BytesIO()
result.image.save(buffer, "PNG")
image = base64.b64encode(buffer.getvalue()).decode()
print(json.dumps({"image": image, "infotext": result.info["infotexts"][0]}))
