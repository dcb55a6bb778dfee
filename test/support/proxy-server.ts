/** An HTTP proxy: forwards requests, and makes tunnels for CONNECT. */
import { createServer, type IncomingMessage, request as send } from 'node:http';
import { connect, type Socket } from 'node:net';
import { listen } from './hub-server.ts';

export interface FakeProxy extends AsyncDisposable {
  readonly url: string;
  /** What was asked for, as in `CONNECT host:port` or `GET http://host:port/path`. */
  readonly log: string[];
  /** What happens instead of forwarding: a status, an end of the connection, or nothing at all. */
  refuse: number | 'close' | 'silence' | undefined;
  /** Who may use it, as `user:password`. */
  login: string | undefined;
  /** Connections that clients have open. */
  readonly clients: ReadonlySet<Socket>;
}

export async function startProxy(): Promise<FakeProxy> {
  const clients = new Set<Socket>();
  const tunnels = new Set<Socket>();
  const allowed = ({ headers }: IncomingMessage) =>
    proxy.login === undefined ||
    headers['proxy-authorization'] === `Basic ${Buffer.from(proxy.login).toString('base64')}`;

  const server = createServer((request, response) => {
    const { method = '', url = '', headers } = request;
    proxy.log.push(`${method} ${url}`);
    const refuse = allowed(request) ? proxy.refuse : 407;
    if (refuse === 'silence') return;
    if (refuse === 'close') response.destroy();
    else if (refuse !== undefined) response.writeHead(refuse).end();
    else {
      const { 'proxy-authorization': _, ...passed } = headers;
      const onward = send(url, { method, headers: passed }, (answer) => {
        response.writeHead(answer.statusCode!, answer.headers);
        answer.on('error', () => response.destroy());
        answer.pipe(response);
      });
      onward.on('error', () => response.destroy());
      response.on('close', () => onward.destroy());
      onward.end();
    }
  });
  server.on('connection', (socket) => {
    clients.add(socket);
    socket.on('close', () => clients.delete(socket));
  });
  server.on('connect', (request: IncomingMessage, client: Socket) => {
    proxy.log.push(`CONNECT ${request.url}`);
    client.on('error', () => undefined);
    const refuse = allowed(request) ? proxy.refuse : 407;
    // Only who reads sees the other side end; a server's sockets stay half open then.
    if (refuse === 'silence') client.resume().on('end', () => client.end());
    else if (refuse === 'close') client.destroy();
    else if (refuse !== undefined) client.end(`HTTP/1.1 ${refuse} No\r\n\r\n`);
    else {
      const { hostname, port } = new URL(`http://${request.url}`);
      const onward = connect(Number(port), hostname, () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        onward.pipe(client).pipe(onward);
      });
      tunnels.add(onward);
      onward.on('error', () => client.destroy());
      onward.on('close', () => client.destroy());
      client.on('close', () => onward.destroy());
    }
  });
  const { origin, close } = await listen(server);
  const proxy: FakeProxy = {
    url: origin,
    log: [],
    refuse: undefined,
    login: undefined,
    clients,
    async [Symbol.asyncDispose]() {
      for (const socket of [...clients, ...tunnels]) socket.destroy();
      await close();
    },
  };
  return proxy;
}
