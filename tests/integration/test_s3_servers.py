def test_a(bucket):
    bucket.limited_client.put_object(Bucket=bucket, Key="loova/x", Body=b"1")
