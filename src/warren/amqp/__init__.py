"""AMQP 0-9-1 as bytes: frames, methods, tables, confirms and acknowledgements. Pure; knows no Pika."""
