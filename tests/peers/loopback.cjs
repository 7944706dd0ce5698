// Loaded into the peers that are node programs: they listen on the loopback interface only, whatever they were
// written to do, and PEER_HEADERS (a JSON object) is added to every request, as a reverse proxy before them would.
const http = require("node:http");
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  const callback = rest.find((argument) => typeof argument === "function");
  const port = typeof first === "object" ? first.port : first;
  return listen.call(this, { port: Number(port), host: "127.0.0.1" }, callback);
};

const added = Object.entries(JSON.parse(process.env.PEER_HEADERS || "{}"));
const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, ...rest) {
  if (event === "request") for (const [name, value] of added) {
    request.rawHeaders.push(name, value);
    request.headers[name] = value;
  }
  return emit.call(this, event, request, ...rest);
};
