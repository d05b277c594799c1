"""AMQP 0-9-1 through Pika: the only package that imports it."""
