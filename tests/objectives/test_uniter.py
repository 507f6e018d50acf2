
real	9m50.342s
user	1m28.434s
sys	0m1.601s
done
