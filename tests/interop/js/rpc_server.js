// The server of RabbitMQ's tutorial six in JavaScript: node rpc_server.js URL QUEUE
// Written after the tutorial's text, on amqplib's promise API. It knows nothing of Warren.
'use strict';

const amqp = require('amqplib');

const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));

async function main([url, queue]) {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  await channel.assertQueue(queue, { durable: false });
  await channel.prefetch(1);

  await channel.consume(queue, (message) => {
    const n = parseInt(message.content.toString(), 10);
    const { replyTo, correlationId } = message.properties;
    console.log(' [.] fib(%d)', n);
    channel.sendToQueue(replyTo, Buffer.from(fib(n).toString()), { correlationId });
    channel.ack(message);
  });
  console.log(' [x] Awaiting RPC requests');
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
