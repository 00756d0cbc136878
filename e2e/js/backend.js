// A backend's calls of the server API, by its plain HTTP.
//
// SWITCHBOARD_API_ENDPOINTS names the server APIs, one for each of SWITCHBOARD_ENDPOINTS; SWITCHBOARD_API_KEY opens them.

export const apis = (process.env.SWITCHBOARD_API_ENDPOINTS ?? "").split(",").filter((url) => url !== "");
if (apis.length === 0) throw new Error("SWITCHBOARD_API_ENDPOINTS names no server API");
export const apiKey = process.env.SWITCHBOARD_API_KEY;

export async function backend(method, params, index = 0) {
  const response = await fetch(`${apis[index % apis.length]}/${method}`, {
    method: "POST",
    headers: { "X-API-Key": apiKey },
    body: JSON.stringify(params),
  });
  const { error, result } = await response.json();
  if (error) throw Object.assign(new Error(error.message), { code: error.code });
  return result;
}
