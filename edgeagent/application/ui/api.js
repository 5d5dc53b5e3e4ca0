// Talks to the daemon that served this page, and to nobody else.

const TOKEN = "edgeagent-token";

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const setToken = (token) => sessionStorage.setItem(TOKEN, token);

async function call(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new ApiError("the machine does not answer; check that edgeagent is running", 0, "unreachable");
  }
  if (!response.ok && path !== "/ready") throw await refused(response);
  return response;
}

async function refused(response) {
  const document = await response.json().catch(() => null);
  const error = document?.error ?? { message: `the request failed with status ${response.status}; try again`, code: null };
  return new ApiError(error.message, response.status, error.code);
}

export const getJson = async (path) => (await call(path)).json();

// Changes something; gives what the daemon says of it.
export async function send(method, path, document) {
  const body = document === undefined ? undefined : JSON.stringify(document);
  return (await call(path, { method, body })).json();
}

// Yields each chunk of a streamed answer. Throws ApiError when the daemon reports one, or the stream breaks off.
export async function* streamed(request, signal) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const response = await call("/v1/chat/completions", { method: "POST", body, signal });
  for await (const line of lines(response.body)) {
    if (!line.startsWith("data: ")) continue;
    if (line === "data: [DONE]") return;
    const chunk = JSON.parse(line.slice(6));
    if (chunk.error) throw new ApiError(chunk.error.message, 500, chunk.error.code);
    yield chunk;
  }
  throw new ApiError("the answer broke off; ask again", 0, "broken_stream");
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((failure) => {
      if (failure.name === "AbortError") throw failure;
      return { done: true };
    });
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}
