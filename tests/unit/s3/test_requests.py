"""Whatever becomes of a request, it ends with an error of botocore's, which all callers know."""

import socket
import threading

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from airflow_pg_s3.core.s3.requests import get_object


def test_a_refusal_whose_body_does_not_come_is_an_error_of_botocores() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(read_timeout=0.2, s3={"addressing_style": "path"}),
        )
        is_over = threading.Event()

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10000)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n<Error>")
                is_over.wait(60)

        server = threading.Thread(target=refuse)
        server.start()
        try:
            with pytest.raises(BotoCoreError):
                get_object(client, Bucket="bucket", Key="key")
        finally:
            is_over.set()
            server.join()
